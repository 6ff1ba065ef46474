{{/* The broker as it runs in the DaemonSet, and as it takes everything off a node. */}}
{{- define "warren.brokerPlaces" -}}
- --proc=/host/proc
- --cgroup-root=/host/cgroup
- --bpffs=/host/bpf
{{- end }}

{{- define "warren.brokerArgs" -}}
{{ include "warren.brokerPlaces" . }}
- --kubelet-cgroup={{ .Values.node.kubeletCgroup }}
- --log-level={{ .Values.logLevel }}
- --file=token=/var/run/secrets/warren/token
- --file=roots=/var/run/secrets/warren-root/root-cert.pem
- --file=crl=/var/run/secrets/warren-root/ca-crl.pem
{{- end }}

{{- define "warren.brokerPrivileges" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: true # the API server refuses false beside SYS_ADMIN
readOnlyRootFilesystem: true
privileged: false
capabilities:
  drop: [ALL]
  add:
    - BPF # load programs, make maps
    - NET_ADMIN # attach them to network namespaces, interfaces and sockets
    - SYS_ADMIN # enter pods' network namespaces, attach to cgroups
    - SYS_PTRACE # find pods' network namespaces by their processes
    - KILL # end a ztunnel that does not let go of a dead pod's sockets
seccompProfile: {type: RuntimeDefault}
appArmorProfile: {type: Unconfined} # the runtime's profile forbids to look at other containers' processes
{{- end }}

{{- define "warren.brokerMounts" -}}
- {name: proc, mountPath: /host/proc} # the container's own has /proc/sys read-only
- {name: cgroup, mountPath: /host/cgroup, readOnly: true, mountPropagation: HostToContainer}
- {name: bpffs, mountPath: /host/bpf, mountPropagation: HostToContainer}
{{- end }}

{{- define "warren.brokerVolumes" -}}
- {name: proc, hostPath: {path: /proc, type: Directory}}
- {name: cgroup, hostPath: {path: {{ .Values.node.cgroupRoot }}, type: Directory}}
- {name: bpffs, hostPath: {path: {{ .Values.node.bpffs }}, type: Directory}}
{{- end }}

{{/* For what takes everything off a node: it has to start where a directory is missing, too. */}}
{{- define "warren.cniVolumes" -}}
- {name: cni-bin, hostPath: {path: {{ .Values.node.cniBinDir }}, type: DirectoryOrCreate}}
- {name: cni-conf, hostPath: {path: {{ .Values.node.cniConfDir }}, type: DirectoryOrCreate}}
{{- end }}
