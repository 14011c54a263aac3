{{- define "calmirror.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Pods add "-ORDINAL", and labels with their names end at 63 characters. */}}
{{- define "calmirror.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "calmirror.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The headless service, which gives each pod a name. */}}
{{- define "calmirror.headless" -}}
{{ include "calmirror.fullname" . }}-shards
{{- end -}}

{{- define "calmirror.selectorLabels" -}}
app.kubernetes.io/name: {{ include "calmirror.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "calmirror.labels" -}}
{{ include "calmirror.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "calmirror.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "calmirror.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The name of a shard as the others know it, with {ordinal} for its number. */}}
{{- define "calmirror.shardHost" -}}
{{ include "calmirror.fullname" . }}-{ordinal}.{{ include "calmirror.headless" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{/* The names under which the API is reached, as JSON, which is also TOML. */}}
{{- define "calmirror.hosts" -}}
{{- $root := . -}}
{{- $service := include "calmirror.fullname" . -}}
{{- $short := list $service -}}
{{- range until (int .Values.replicas) -}}
{{- $short = append $short (printf "%s-%d.%s" $service . (include "calmirror.headless" $root)) -}}
{{- end -}}
{{- $hosts := list -}}
{{- range $short -}}
{{- $inside := printf "%s.%s" . $root.Release.Namespace -}}
{{- $hosts = concat $hosts (list . $inside (printf "%s.svc" $inside) (printf "%s.svc.%s" $inside $root.Values.clusterDomain)) -}}
{{- end -}}
{{- concat $hosts .Values.api.hosts | toPrettyJson -}}
{{- end -}}
