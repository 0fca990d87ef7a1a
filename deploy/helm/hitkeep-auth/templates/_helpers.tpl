{{/* The name that everything begins with: the release's, or both. */}}
{{- define "hitkeep-auth.name" -}}
{{- if contains "hitkeep-auth" .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-hitkeep-auth" (.Release.Name | trunc 32 | trimSuffix "-") -}}
{{- end -}}
{{- end }}

{{/* What selects the pods of a component: list CONTEXT COMPONENT. */}}
{{- define "hitkeep-auth.selector" -}}
{{- $context := index . 0 -}}
app.kubernetes.io/name: hitkeep-auth
app.kubernetes.io/instance: {{ $context.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "hitkeep-auth.labels" -}}
{{- $context := index . 0 -}}
{{ include "hitkeep-auth.selector" . }}
app.kubernetes.io/version: {{ $context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "hitkeep-auth.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What all pods have. */}}
{{- define "hitkeep-auth.pod" -}}
automountServiceAccountToken: false
# Of a service, Kubernetes makes variables that begin with its name, as
# hitkeep-auth's own do.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "hitkeep-auth.container" -}}
image: {{ include "hitkeep-auth.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* How to ask what serves with those variables over HTTP. */}}
{{- define "hitkeep-auth.scheme" -}}
{{- $tls := get (. | default dict) "HITKEEP_AUTH_HTTP_TLS" | lower -}}
{{- ternary "HTTPS" "HTTP" (has $tls (list "1" "true" "yes" "on" "y")) -}}
{{- end }}

{{/* What the gRPC port speaks, to gateways and meshes: list SECRET VARIABLES. */}}
{{- define "hitkeep-auth.grpc" -}}
{{- ternary "https" "kubernetes.io/h2c" (or (ne (index . 0) "") (hasKey (index . 1 | default dict) "HITKEEP_AUTH_TLS_CERT")) -}}
{{- end }}

{{/* Ports and probes of what serves with those variables. */}}
{{- define "hitkeep-auth.serving" -}}
{{- $scheme := include "hitkeep-auth.scheme" . -}}
ports:
  - { name: grpc, containerPort: 50051 }
  - { name: http, containerPort: 50052 }
# Says nothing of Postgres: a restart would throw away the index that a server
# goes on answering from.
livenessProbe:
  httpGet: { path: /livez, port: http, scheme: {{ $scheme }} }
  periodSeconds: 10
  timeoutSeconds: 3
# Until the index was read, and while it is too old.
readinessProbe:
  httpGet: { path: /readyz, port: http, scheme: {{ $scheme }} }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* The options of a map, as variables. */}}
{{- define "hitkeep-auth.env" -}}
{{- range $name, $value := . }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- end }}
