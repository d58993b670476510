{{- define "foretune.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Start of all names; short enough for the longest ending. */}}
{{- define "foretune.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "foretune.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What selects the pod; never changed, since a Deployment's selector can't be. */}}
{{- define "foretune.selectorLabels" -}}
app.kubernetes.io/name: {{ include "foretune.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{/* Labels of every object: (dict "root" $ "component" "server"). */}}
{{- define "foretune.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" (include "foretune.name" .root)
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/component" .component
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/part-of" "foretune"
  "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- toYaml (merge $own (deepCopy .root.Values.commonLabels)) }}
{{- end }}

{{- define "foretune.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "foretune.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image's full name: (dict "root" $ "image" .Values.image). */}}
{{- define "foretune.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{/* "true" where the history is SQLite on a volume. */}}
{{- define "foretune.sqlite" -}}
{{- if not (or .Values.tracker.databaseUrl .Values.tracker.existingSecret.name) }}true{{ end }}
{{- end }}

{{/* "true" where the release makes the volume's claim. */}}
{{- define "foretune.makesClaim" -}}
{{- if and (include "foretune.sqlite" .) .Values.persistence.enabled (not .Values.persistence.existingClaim) }}true{{ end }}
{{- end }}

{{/* Security context of every container: Pod Security "restricted" and a read-only root. */}}
{{- define "foretune.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end }}

{{- define "foretune.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Probes at the port "metrics-<name>"; starting may take three minutes on a slow node. */}}
{{- define "foretune.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: {{ . }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 90
livenessProbe:
  httpGet:
    path: /healthz
    port: {{ . }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ . }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{/* Volume with what in-cluster clients of the API server expect. */}}
{{- define "foretune.apiTokenVolume" -}}
- name: api-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                apiVersion: v1
                fieldPath: metadata.namespace
{{- end }}

{{/* Rights in each watched namespace; docs/operations/rights.md says what each is for. */}}
{{- define "foretune.rules" -}}
- apiGroups: [foretune.io]
  resources: [tuningjobs]
  verbs: [get, list, watch]
- apiGroups: [foretune.io]
  resources: [tuningjobs/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end }}
