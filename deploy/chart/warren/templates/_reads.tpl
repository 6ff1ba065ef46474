{{/* The kinds that mesh/kube/informers watches. */}}
{{- define "warren.reads" -}}
- apiGroups: [""]
  resources: [namespaces, nodes, pods, services]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [servicecidrs]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [security.istio.io]
  resources: [authorizationpolicies, peerauthentications]
  verbs: [list, watch]
- apiGroups: [warren.dev]
  resources: [meshconfigs]
  verbs: [list, watch]
{{- end }}
