{{/*
A Job that Helm runs, with a ServiceAccount and rights of its own that exist only while it runs.
Call with (dict "root" $ "name" "bursar-crds" "hook" "pre-upgrade" "args" (list ...) "rules" "cluster rules as YAML").
*/}}
{{- define "bursar.hook" -}}
{{- $labels := include "bursar.labels" (dict "root" .root "component" .name) }}
{{- $namespace := .root.Release.Namespace }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ $namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- include "bursar.hookAnnotations" (list .hook -20 "right") | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- include "bursar.hookAnnotations" (list .hook -20 "right") | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- include "bursar.hookAnnotations" (list .hook -10 "right") | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .name }}}
subjects:
  - {kind: ServiceAccount, name: {{ .name }}, namespace: {{ $namespace }}}
{{- with .namespaceRules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $.name }}
  namespace: {{ $namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- include "bursar.hookAnnotations" (list $.hook -20 "right") | nindent 4 }}
rules:
  {{- . | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $.name }}
  namespace: {{ $namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- include "bursar.hookAnnotations" (list $.hook -10 "right") | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $.name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $.name }}, namespace: {{ $namespace }}}
{{- end }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ $namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- include "bursar.hookAnnotations" (list .hook 0) | nindent 4 }}
spec:
  backoffLimit: 3
  # less than Helm's own five minutes, so that the Job reports its failure before Helm gives up
  activeDeadlineSeconds: 270
  template:
    metadata:
      labels:
        {{- $labels | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ .name }}
      automountServiceAccountToken: true
      {{- include "bursar.pod" .root | nindent 6 }}
      containers:
        - name: bursar
          {{- include "bursar.container" .root | nindent 10 }}
          args: {{ .args | toJson }}
          env:
            - name: RUST_LOG
              value: {{ .root.Values.log.filter | quote }}
          resources:
            requests: {cpu: 50m, memory: 64Mi}
            limits: {memory: 256Mi}
{{- end }}

{{/*
A failed Job stays for inspection and is deleted before the next attempt; its rights go in any case. Call with
(list "pre-upgrade" weight), and "right" as a third for what is not the Job.
*/}}
{{- define "bursar.hookAnnotations" -}}
helm.sh/hook: {{ index . 0 }}
helm.sh/hook-weight: {{ index . 1 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded{{ if eq (len .) 3 }},hook-failed{{ end }}
{{- end }}
