{{/* Labels of every object; the argument is a list of the root and the part. */}}
{{- define "warren.labels" -}}
app.kubernetes.io/name: {{ index . 1 }}
{{ include "warren.common" (index . 0) }}
{{- end }}

{{- define "warren.common" -}}
app.kubernetes.io/part-of: warren
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Labels of pods: none that changes with the chart alone, so that such a change restarts nothing. */}}
{{- define "warren.podLabels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: warren
{{- end }}

{{- define "warren.podAnnotations" -}}
{{- if .Values.prometheusAnnotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "15020"
prometheus.io/path: /metrics
{{- end }}
{{- end }}

{{- define "warren.pull" -}}
image: {{ required "image: Warren has no public image; build one with `make image` and name it" .Values.image | quote }}
imagePullPolicy: {{ .Values.imagePullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{/* The API server's token, for the one container that speaks to it. */}}
{{- define "warren.apiToken" -}}
projected:
  defaultMode: {{ . }}
  sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap:
        name: kube-root-ca.crt
        items: [{key: ca.crt, path: ca.crt}]
    - downwardAPI:
        items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}

{{/* Of a container without any privilege. */}}
{{- define "warren.harmless" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "warren.ready" -}}
readinessProbe:
  httpGet: {path: /healthz/ready, port: 15021}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
{{- end }}
