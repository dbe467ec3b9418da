{{/* CEL: whoever asks is neither Bursar nor in a group that no policy holds back. Call with the root. */}}
{{- define "bursar.exemptions" -}}
- name: not-bursar-itself
  expression: >-
    !(request.userInfo.username in ['system:serviceaccount:{{ .Release.Namespace }}:bursar-controller',
    'system:serviceaccount:{{ .Release.Namespace }}:bursar-uninstall'])
{{ include "bursar.breakGlass" . }}
{{- with .Values.admission.exemptUsers }}
- name: not-an-exempt-user
  expression: "!(request.userInfo.username in {{ include "bursar.celStrings" . | replace "\"" "'" }})"
{{- end }}
{{- end }}

{{/*
CEL: whoever asks may not repair by hand: he is in no group that no policy holds back, and does not have the right to break the glass
where that counts. Call with the root.
*/}}
{{- define "bursar.breakGlass" -}}
- name: not-a-break-glass-group
  expression: >-
    !request.userInfo.?groups.orValue([]).exists(g, g in {{ include "bursar.celStrings" .Values.admission.breakGlassGroups }})
{{- if .Values.admission.breakGlassRight }}
# last, because it asks the authorizer
- name: without-the-right-to-break-the-glass
  expression: "!authorizer.group('bursar.dev').resource('admissionpolicies').check('bypass').allowed()"
{{- end }}
{{- end }}

{{/* A list of strings in CEL, which takes JSON's strings. */}}
{{- define "bursar.celStrings" -}}
[{{ range $index, $text := . }}{{ if $index }}, {{ end }}{{ $text | toJson }}{{ end }}]
{{- end }}

{{/* CEL: the user names under which these controllers of Kubernetes may act. Call with (dict "root" $ "controllers" (list ...)). */}}
{{- define "bursar.controllerUsers" -}}
{{- $users := list "system:kube-controller-manager" }}
{{- range .controllers }}{{ $users = append $users (printf "system:serviceaccount:kube-system:%s" .) }}{{ end }}
{{- include "bursar.celStrings" (concat $users .root.Values.admission.controllerUsers) }}
{{- end }}

{{/* CEL: the resource `r` is a GPU, or a part of one. The same names as in src/core/src/pricing/accelerators.rs. */}}
{{- define "bursar.isGpu" -}}
(r in ['nvidia.com/gpu', 'nvidia.com/gpu.shared', 'amd.com/gpu', 'gpu.intel.com/i915', 'gpu.intel.com/xe', 'aws.amazon.com/neuron', 'aws.amazon.com/neurondevice', 'aws.amazon.com/neuroncore', 'google.com/tpu', 'habana.ai/gaudi'] || r.startsWith('nvidia.com/mig-') || r.startsWith('amd.com/spx_') || r.startsWith('amd.com/dpx_') || r.startsWith('amd.com/tpx_') || r.startsWith('amd.com/qpx_') || r.startsWith('amd.com/cpx_'))
{{- end }}

{{/* CEL: containers of the pod `pod` ask for GPUs. */}}
{{- define "bursar.asksForGpus" -}}
(dyn({{ . }}).spec.?containers.orValue([]) + dyn({{ . }}).spec.?initContainers.orValue([])).exists(c,
c.?resources.?limits.orValue({}).exists(r,
{{ include "bursar.isGpu" . }}
&& string(c.resources.limits[r]) != '0'))
{{- end }}

{{/* CEL: the maps `a` and `b` are equal but for the key `key`. */}}
{{- define "bursar.equalBut" -}}
{{ .a }}.all(k, k == '{{ .key }}' || (k in {{ .b }} && {{ .a }}[k] == {{ .b }}[k])) && {{ .b }}.all(k, k == '{{ .key }}' || k in {{ .a }})
{{- end }}

{{/*
CEL: an object of a kind of jobTargets differs in nothing but the field that suspends it, and in metadata and status. Call with
(dict "kind" ENTRY).
*/}}
{{- define "bursar.changesOnly" -}}
{{- $fields := splitList "." .kind.suspend }}
{{- $a := "variables.now" }}
{{- $b := "variables.before" -}}
((request.resource.group + '/' + request.resource.resource) == '{{ .kind.apiGroup }}/{{ .kind.resource }}'
        && {{ $a }}.all(k, k in ['metadata', 'status', '{{ first $fields }}'] || (k in {{ $b }} && {{ $a }}[k] == {{ $b }}[k]))
        && {{ $b }}.all(k, k == 'status' || k in {{ $a }})
        {{- range $i, $field := $fields }}
        {{- if $i }}
        && {{ include "bursar.equalBut" (dict "a" $a "b" $b "key" $field) }}
        {{- end }}
        {{- $a = printf "%s[?'%s'].orValue({})" $a $field }}
        {{- $b = printf "%s[?'%s'].orValue({})" $b $field }}
        {{- end }})
{{- end }}

{{/*
The beginning of a policy and its binding. A failure of a policy refuses the request, so each has conditions that keep it off the
objects of everybody else, and that cannot fail. Call with (dict "root" $ "name" NAME "mode" MODE), and with "optOut" KEY if a label of
this key, with the value `allowed`, keeps a namespace out.
*/}}
{{- define "bursar.policyBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "bursar.labels" (dict "root" .root "component" "controller") | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: {{ if eq .mode "Deny" }}[Deny]{{ else }}[Warn, Audit]{{ end }}
  {{- with .optOut }}
  # namespaces that the platform has labelled are not held to it
  matchResources:
    namespaceSelector:
      matchExpressions:
        - {key: {{ . }}, operator: NotIn, values: [allowed]}
  {{- end }}
{{- end }}
