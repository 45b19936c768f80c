{{- define "copepod.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "copepod.selector" . }}
{{- end }}

{{- define "copepod.selector" -}}
app.kubernetes.io/name: copepod
app.kubernetes.io/component: installer
{{- end }}

{{- define "copepod.installer" -}}
{{ printf "%s-installer" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
