{{/* The broker's configuration. Strings and lists are written as JSON, which TOML reads the same. */}}

{{/*
What takes a restart: the pods carry its checksum. The broker takes up everything else while it runs, and that must not roll them.
*/}}
{{- define "token-broker.restarts" -}}
{{- dict
      "grpc.listen, grpc.health_listen" .Values.grpc.listenAddress
      "admin.listen" .Values.admin.enabled
      "audit.file" .Values.audit.file
      "audit.hits" .Values.audit.hits
      "log.format" .Values.log.format
      "operator" .Values.operator.enabled
      "state_directory" .Values.state.enabled
      "traces" .Values.traces
      "shared" (include "token-broker.shares" .)
      "shared.name_key_file" .Values.shared.nameKeySecret
      "grpc.tls" (include "token-broker.tls" .)
    | toJson }}
{{- end }}

{{- define "token-broker.config" -}}
{{- $files := "/etc/token-broker" }}
{{- $listen := .Values.grpc.listenAddress -}}
# Each directory is a Secret's: kubelet swaps its content when the Secret changes.
credentials_files = [
{{- range concat .Values.credentials.secrets .Values.credentials.externalSecrets }}
  {{ printf "%s/credentials/%s/*.toml" $files .name | toJson }},
{{- end }}
]
{{- if .Values.state.enabled }}
# A directory that the broker makes: the volume itself is open to its group.
state_directory = "/var/lib/token-broker/state"
{{- end }}

[grpc]
listen = {{ printf "%s:50051" $listen | toJson }}
# Probes of kubelet speak no TLS: health has a port of its own.
health_listen = {{ printf "%s:50052" $listen | toJson }}
{{- with .Values.grpc }}
lame_duck = "{{ int .lameDuckSeconds }}s"
drain = "{{ int .drainSeconds }}s"
call_timeout = {{ .callTimeout | toJson }}
max_connection_age = {{ .maxConnectionAge | toJson }}
{{- end }}
{{- if include "token-broker.tls" . }}

[grpc.tls]
{{- if .Values.tls.podCertificate.enabled }}
# One file has both.
certificate_file = "{{ $files }}/tls/tls.pem"
key_file = "{{ $files }}/tls/tls.pem"
{{- else }}
certificate_file = "{{ $files }}/tls/tls.crt"
key_file = "{{ $files }}/tls/tls.key"
{{- end }}
{{- if include "token-broker.clientCa" . }}
client_ca_file = {{ printf "%s/client-ca/%s" $files .Values.tls.clientCa.key | toJson }}
{{- else if .Values.tls.csi.enabled }}
client_ca_file = "{{ $files }}/tls/ca.crt"
{{- end }}
{{- end }}
{{- if .Values.admin.enabled }}

[admin]
listen = {{ printf "%s:9090" $listen | toJson }}
{{- if not (kindIs "invalid" .Values.admin.labelCallers) }}
label_callers = {{ .Values.admin.labelCallers }}
{{- end }}
{{- if not (kindIs "invalid" .Values.admin.rpcMetrics) }}
rpc_metrics = {{ .Values.admin.rpcMetrics }}
{{- end }}
{{- end }}
{{- if .Values.operator.enabled }}

[operator]
# Where the image's own commands look for it.
socket = "/run/token-broker/operator.sock"
{{- end }}

[log]
format = {{ .Values.log.format | toJson }}
level = {{ .Values.log.level | toJson }}
{{- with .Values.audit }}
{{- if or .file (ne .hits "each") }}

[audit]
{{- if .file }}
file = {{ printf "/var/log/token-broker/%s" .file | toJson }}
{{- end }}
hits = {{ .hits | toJson }}
{{- end }}
{{- end }}
{{- with .Values.traces }}
{{- if .endpoint }}

[traces]
endpoint = {{ .endpoint | toJson }}
{{- if not (kindIs "invalid" .sampleRatio) }}
sample_ratio = {{ .sampleRatio | float64 | printf "%f" }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.vault }}

[vault]
base_url = {{ .baseUrl | toJson }}
{{- if include "token-broker.hasCa" .ca }}
ca_file = {{ printf "%s/vault-ca/%s" $files .ca.key | toJson }}
{{- end }}
timeout = {{ .timeout | toJson }}
max_concurrent_sign_ins = {{ int .maxConcurrentSignIns }}
min_sign_in_interval = {{ .minSignInInterval | toJson }}
refusal_hold = {{ .refusalHold | toJson }}
renewal = {{ .renewal | toJson }}
sign_out = {{ .signOut }}
assumed_lifetime = {{ .assumedLifetime | toJson }}
idle_after = {{ .idleAfter | toJson }}
caller_sign_ins_per_minute = {{ int .callerSignInsPerMinute }}
caller_forced_sign_ins_per_minute = {{ int .callerForcedSignInsPerMinute }}
{{- with .headers }}

[vault.headers]
{{- range $name, $value := . }}
{{ $name | toJson }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.shared }}
{{- if .url }}

[shared]
url = {{ .url | toJson }}
{{- if .passwordSecret.name }}
password_file = {{ printf "%s/shared-password/%s" $files .passwordSecret.key | toJson }}
{{- end }}
{{- if include "token-broker.hasCa" .ca }}
ca_file = {{ printf "%s/shared-ca/%s" $files .ca.key | toJson }}
{{- end }}
name_key_file = {{ printf "%s/shared-names/%s" $files .nameKeySecret.key | toJson }}
{{- range .keys }}

[[shared.keys]]
id = {{ int64 .id }}
file = {{ printf "%s/shared-keys/%s/%s" $files .secretName .key | toJson }}
{{- end }}
{{- end }}
{{- end }}

[auth]
{{- if not .Values.auth.enforce }}
enforce = false
{{- end }}
allow_unauthenticated = {{ .Values.auth.allowUnauthenticated }}
{{- with .Values.auth.serviceAccounts }}
{{- if .enabled }}

[auth.service_accounts]
issuer = {{ .issuer | toJson }}
audience = {{ .audience | toJson }}
{{- with .jwksConfigMap }}
{{- if .name }}
{{- if kindIs "slice" .key }}
jwks_file = [{{ range $index, $key := .key }}{{ if $index }}, {{ end }}{{ printf "%s/jwks/%s" $files $key | toJson }}{{ end }}]
{{- else }}
jwks_file = {{ printf "%s/jwks/%s" $files .key | toJson }}
{{- end }}
{{- end }}
{{- end }}
token_review = {{ .tokenReview }}
{{- if include "token-broker.asksApiServer" $ }}
ca_file = "{{ $files }}/api-server/ca.crt"
token_file = "{{ $files }}/api-server/token"
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.callers }}

[[callers]]
id = {{ .id | toJson }}
merchants = {{ .merchants | toJson }}
{{- if hasKey . "numbers" }}
numbers = {{ .numbers | toJson }}
{{- end }}
{{- if .trial }}
trial = true
{{- end }}
{{- end }}
{{- end }}
