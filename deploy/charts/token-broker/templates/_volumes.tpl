{{/*
What the broker's container mounts, and where it comes from. Every mount is a whole directory: a single file (subPath) would never
change, while the broker takes up what kubelet swaps. Secrets are 0440: with fsGroup the broker can read them, and no one else.
*/}}

{{- define "token-broker.volumeMounts" -}}
- name: config
  mountPath: /etc/token-broker/config
  readOnly: true
{{- range concat .Values.credentials.secrets .Values.credentials.externalSecrets }}
- name: credentials-{{ .name }}
  mountPath: /etc/token-broker/credentials/{{ .name }}
  readOnly: true
{{- end }}
{{- if include "token-broker.tls" . }}
- name: tls
  mountPath: /etc/token-broker/tls
  readOnly: true
{{- end }}
{{- if include "token-broker.clientCa" . }}
- name: client-ca
  mountPath: /etc/token-broker/client-ca
  readOnly: true
{{- end }}
{{- if include "token-broker.hasCa" .Values.vault.ca }}
- name: vault-ca
  mountPath: /etc/token-broker/vault-ca
  readOnly: true
{{- end }}
{{- if include "token-broker.shares" . }}
{{- if .Values.shared.passwordSecret.name }}
- name: shared-password
  mountPath: /etc/token-broker/shared-password
  readOnly: true
{{- end }}
{{- if include "token-broker.hasCa" .Values.shared.ca }}
- name: shared-ca
  mountPath: /etc/token-broker/shared-ca
  readOnly: true
{{- end }}
- name: shared-names
  mountPath: /etc/token-broker/shared-names
  readOnly: true
{{- range include "token-broker.sharedKeySecrets" . | fromJsonArray }}
- name: shared-keys-{{ . }}
  mountPath: /etc/token-broker/shared-keys/{{ . }}
  readOnly: true
{{- end }}
{{- end }}
{{- if and .Values.auth.serviceAccounts.enabled .Values.auth.serviceAccounts.jwksConfigMap.name }}
- name: jwks
  mountPath: /etc/token-broker/jwks
  readOnly: true
{{- end }}
{{- if include "token-broker.asksApiServer" . }}
- name: api-server
  mountPath: /etc/token-broker/api-server
  readOnly: true
{{- end }}
{{- if .Values.audit.file }}
- name: audit
  mountPath: /var/log/token-broker
{{- end }}
{{- if .Values.state.enabled }}
- name: state
  mountPath: /var/lib/token-broker
{{- end }}
{{- if .Values.operator.enabled }}
- name: operator
  mountPath: /run/token-broker
{{- end }}
{{- end }}

{{- define "token-broker.volumes" -}}
{{- $fullname := include "token-broker.fullname" . -}}
- name: config
  configMap:
    name: {{ $fullname }}
    defaultMode: 0440
{{- range .Values.credentials.secrets }}
- name: credentials-{{ .name }}
  secret:
    secretName: {{ .secretName | quote }}
    defaultMode: 0440
{{- end }}
{{- range .Values.credentials.externalSecrets }}
- name: credentials-{{ .name }}
  secret:
    secretName: {{ $fullname }}-{{ .name }}
    defaultMode: 0440
{{- end }}
{{- if .Values.tls.csi.enabled }}
- name: tls
  csi:
    driver: {{ .Values.tls.csi.driver | quote }}
    readOnly: true
    {{- with .Values.tls.csi.volumeAttributes }}
    volumeAttributes:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- else if .Values.tls.podCertificate.enabled }}
# kubelet makes the key, asks the signer, and renews what comes of it; key and chain are in one file.
- name: tls
  projected:
    defaultMode: 0440
    sources:
      {{- with .Values.tls.podCertificate }}
      - podCertificate:
          signerName: {{ .signerName }}
          keyType: {{ .keyType }}
          {{- with .maxExpirationSeconds }}
          maxExpirationSeconds: {{ int . }}
          {{- end }}
          credentialBundlePath: tls.pem
      {{- end }}
{{- else if include "token-broker.tls" . }}
- name: tls
  secret:
    secretName: {{ include "token-broker.tlsSecret" . | quote }}
    defaultMode: 0440
{{- end }}
{{- if include "token-broker.clientCa" . }}
- name: client-ca
  {{- include "token-broker.caSource" .Values.tls.clientCa | nindent 2 }}
{{- end }}
{{- if include "token-broker.hasCa" .Values.vault.ca }}
- name: vault-ca
  {{- include "token-broker.caSource" .Values.vault.ca | nindent 2 }}
{{- end }}
{{- if include "token-broker.shares" . }}
{{- with .Values.shared }}
{{- if .passwordSecret.name }}
- name: shared-password
  {{- include "token-broker.secretKey" .passwordSecret | nindent 2 }}
{{- end }}
{{- if include "token-broker.hasCa" .ca }}
- name: shared-ca
  {{- include "token-broker.caSource" .ca | nindent 2 }}
{{- end }}
- name: shared-names
  {{- include "token-broker.secretKey" .nameKeySecret | nindent 2 }}
{{- end }}
{{- /* Whole Secrets: a key that is added to one arrives in pods that run. */}}
{{- range include "token-broker.sharedKeySecrets" . | fromJsonArray }}
- name: shared-keys-{{ . }}
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- with .Values.auth.serviceAccounts }}
{{- if and .enabled .jwksConfigMap.name }}
- name: jwks
  configMap:
    name: {{ .jwksConfigMap.name | quote }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- if include "token-broker.asksApiServer" . }}
# Its own token for the API server: without an audience it is for the API server itself.
- name: api-server
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
{{- end }}
{{- if .Values.audit.file }}
- name: audit
  {{- toYaml .Values.audit.volume | nindent 2 }}
{{- end }}
{{- if .Values.state.enabled }}
- name: state
  {{- /* The file with the holds, and the next one while it is written. */}}
  {{- .Values.state.volume | default (dict "emptyDir" (dict "sizeLimit" "160Mi")) | toYaml | nindent 2 }}
{{- end }}
{{- if .Values.operator.enabled }}
- name: operator
  emptyDir:
    # It holds a socket alone.
    sizeLimit: 1Mi
{{- end }}
{{- end }}

{{/* The volume with one key of a Secret, and nothing that lies beside it. */}}
{{- define "token-broker.secretKey" -}}
secret:
  secretName: {{ .name | quote }}
  defaultMode: 0440
  items:
    - key: {{ .key | quote }}
      path: {{ .key | quote }}
{{- end }}

{{/* The volume with a CA: its key alone, so that a Secret's private key stays outside the pod. */}}
{{- define "token-broker.caSource" -}}
{{- if or .clusterTrustBundle.name .clusterTrustBundle.signerName -}}
projected:
  defaultMode: 0440
  sources:
    - clusterTrustBundle:
        {{- if .clusterTrustBundle.name }}
        name: {{ .clusterTrustBundle.name | quote }}
        {{- else }}
        signerName: {{ .clusterTrustBundle.signerName }}
        # All of the signer's: without it, none.
        labelSelector: {}
        {{- end }}
        path: {{ .key | quote }}
{{- else -}}
{{- if .secretName -}}
secret:
  secretName: {{ .secretName | quote }}
{{- else -}}
configMap:
  name: {{ .configMapName | quote }}
{{- end }}
  defaultMode: 0440
  items:
    - key: {{ .key | quote }}
      path: {{ .key | quote }}
{{- end }}
{{- end }}
