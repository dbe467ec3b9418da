{{/* Labels of an object. Call with (dict "root" $ "component" "controller"). */}}
{{- define "bursar.labels" -}}
{{ include "bursar.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "bursar.selector" -}}
app.kubernetes.io/name: bursar
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "bursar.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository is not set: name the registry path that you pushed Bursar's image to" $image.repository -}}
{{- if $image.digest -}}
{{ $repository }}@{{ $image.digest }}
{{- else -}}
{{ $repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "bursar.tlsSecret" -}}
{{ .Values.gateway.tls.existingSecret | default "bursar-gateway-tls" }}
{{- end }}

{{/* Fields that all pods share. */}}
{{- define "bursar.pod" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{/* Fields that all containers share. */}}
{{- define "bursar.container" -}}
image: {{ include "bursar.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Spreads replicas over nodes where that is possible. */}}
{{- define "bursar.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "bursar.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{/* The probes on the health port. */}}
{{- define "bursar.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: health}
  periodSeconds: 3
  timeoutSeconds: 2
{{- end }}

{{/* An environment variable from a field of the pod. Call with (list "POD_IP" "status.podIP"). */}}
{{- define "bursar.fieldEnv" -}}
- name: {{ index . 0 }}
  valueFrom:
    fieldRef: {fieldPath: {{ index . 1 }}}
{{- end }}

{{/* The certificate of the secure port and its key. */}}
{{- define "bursar.tlsVolume" -}}
- name: tls
  secret:
    secretName: {{ include "bursar.tlsSecret" . }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
