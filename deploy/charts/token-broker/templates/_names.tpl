{{/* Names, labels, the image, and what follows from the values alone. */}}

{{- define "token-broker.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "token-broker.fullname" -}}
{{- $name := include "token-broker.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "token-broker.selector" -}}
app.kubernetes.io/name: {{ include "token-broker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The labels of every object: commonLabels can add to our own, and replace none. */}}
{{- define "token-broker.labels" -}}
{{- $own := dict
      "app.kubernetes.io/name" (include "token-broker.name" .)
      "app.kubernetes.io/instance" .Release.Name
      "app.kubernetes.io/version" .Chart.AppVersion
      "app.kubernetes.io/managed-by" .Release.Service
      "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- merge $own .Values.commonLabels | toYaml }}
{{- end }}

{{- define "token-broker.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "token-broker.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "token-broker.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* The Secret with the broker's certificate, where it comes from one. */}}
{{- define "token-broker.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled }}
{{- include "token-broker.fullname" . }}-tls
{{- else }}
{{- .Values.tls.secretName }}
{{- end }}
{{- end }}

{{/* "yes" or nothing, each: what of TLS and of the API server is in use. */}}
{{- define "token-broker.tls" -}}
{{- with .Values.tls }}
{{- if or .secretName .certManager.enabled .csi.enabled .podCertificate.enabled }}yes{{ end }}
{{- end }}
{{- end }}

{{- define "token-broker.clientCa" -}}
{{- include "token-broker.hasCa" .Values.tls.clientCa }}
{{- end }}

{{/* Whether a CA is named, in any of its ways. */}}
{{- define "token-broker.hasCa" -}}
{{- if or .secretName .configMapName .clusterTrustBundle.name .clusterTrustBundle.signerName }}yes{{ end }}
{{- end }}

{{- define "token-broker.mutualTls" -}}
{{- if or (include "token-broker.clientCa" .) .Values.tls.csi.enabled }}yes{{ end }}
{{- end }}

{{- define "token-broker.shares" -}}
{{- if .Values.shared.url }}yes{{ end }}
{{- end }}

{{- define "token-broker.asksApiServer" -}}
{{- with .Values.auth.serviceAccounts }}
{{- if and .enabled (or .tokenReview (not .jwksConfigMap.name)) }}yes{{ end }}
{{- end }}
{{- end }}

{{- define "token-broker.reviews" -}}
{{- with .Values.auth.serviceAccounts }}
{{- if and .enabled .tokenReview }}yes{{ end }}
{{- end }}
{{- end }}

{{/*
How many replicas a Deployment with an autoscaler is given: as many as it has, and never fewer than the least. Left out, Kubernetes
would take one, until the autoscaler looks. Where no cluster is asked (`helm template`), it is the least.
*/}}
{{- define "token-broker.scaledReplicas" -}}
{{- $least := int .Values.autoscaling.minReplicas }}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace (include "token-broker.fullname" .) }}
{{- min (max (dig "spec" "replicas" $least $live | int) $least) (int .Values.autoscaling.maxReplicas) }}
{{- end }}

{{/* The Secrets with the shared tier's sealing keys, each once, as a JSON list. */}}
{{- define "token-broker.sharedKeySecrets" -}}
{{- $names := list }}
{{- if .Values.shared.url }}
{{- range .Values.shared.keys }}
{{- $names = append $names .secretName }}
{{- end }}
{{- end }}
{{- $names | uniq | sortAlpha | toJson }}
{{- end }}

{{/* The port at the end of a URL's host; the default's otherwise: (list URL DEFAULT). */}}
{{- define "token-broker.port" -}}
{{- $authority := regexFind "^[a-zA-Z]+://[^/]+" (first .) }}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $authority) | default (last . | toString) }}
{{- end }}

{{/* The pods' labels: the selector's can't be replaced. */}}
{{- define "token-broker.podLabels" -}}
{{- merge (include "token-broker.selector" . | fromYaml) .Values.podLabels .Values.commonLabels | toYaml }}
{{- end }}

{{/* The CA of the broker's certificate, for `helm test`: Secrets of certificates mostly have their CA's beside them. */}}
{{- define "token-broker.healthTestCa" -}}
{{- $ca := .Values.healthTest.ca }}
{{- $secret := include "token-broker.tlsSecret" . }}
{{- if and $secret (not (include "token-broker.hasCa" $ca)) }}
{{- $ca = merge (dict "secretName" $secret) $ca }}
{{- end }}
{{- toYaml $ca }}
{{- end }}

{{/* Whether there is a `helm test`: it asks by the Service's name, and over TLS only with a CA. */}}
{{- define "token-broker.hasHealthTest" -}}
{{- $ca := include "token-broker.healthTestCa" . | fromYaml }}
{{- $verified := or (not (include "token-broker.tls" .)) (include "token-broker.hasCa" $ca) }}
{{- if and .Values.healthTest.enabled .Values.service.enabled $verified }}yes{{ end }}
{{- end }}

{{/* What every runbook_url in files/rules.yaml begins with; monitoring.rules.runbookUrl replaces it. */}}
{{- define "token-broker.runbook" -}}
https://example.org/token-broker/docs/runbook.md
{{- end }}
