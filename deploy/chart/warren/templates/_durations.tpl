{{/* Milliseconds of a duration as Go writes it, such as 1m30s. */}}
{{- define "warren.milliseconds" -}}
{{- $all := 0.0 }}
{{- range regexFindAll "[0-9.]+[a-z]+" . -1 }}
{{- $unit := regexFind "[a-z]+" . }}
{{- $all = addf $all (mulf (trimSuffix $unit . | float64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit)) }}
{{- end }}
{{- $all }}
{{- end }}
