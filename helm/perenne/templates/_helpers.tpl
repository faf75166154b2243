{{- define "perenne.fullname" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-perenne" .Release.Name) (contains "perenne" .Release.Name)) -}}
{{- /* A pod's name is its node's id, which has at most 32 characters. */ -}}
{{- if gt (len (printf "%s-%d" $name (int .Values.replicaCount))) 32 -}}
{{- fail (printf "%s-0 cannot name a node: more than 32 characters; set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "perenne.checks" -}}
{{- $config := .Values.config -}}
{{- $http := $config.http | default dict -}}
{{- $dimse := $config.dimse | default dict -}}
{{- $coordination := $config.coordination | default dict -}}
{{- if and $http.tls (not .Values.tls.secretName) -}}
{{- fail "config.http.tls: there is no certificate; name the secret in tls.secretName" -}}
{{- end -}}
{{- if and (ne ($dimse.tls | default "off") "off") (not .Values.tls.secretName) (not $dimse.tls_certificate_file) -}}
{{- fail "config.dimse.tls: there is no certificate; name the secret in tls.secretName, or give dimse.tls_certificate_file" -}}
{{- end -}}
{{- if and .Values.tls.secretName (not .Values.tls.enabled) -}}
{{- fail "tls.enabled: false, and yet tls.secretName names certificates; leave one of the two out" -}}
{{- end -}}
{{- if and $coordination.tls .Values.tls.secretName (not .Values.zookeeper.external) (not .Values.zookeeper.bundled.tls) -}}
{{- fail "config.coordination.tls: zookeeper.bundled.tls is false, so the chart's own ZooKeeper speaks no TLS" -}}
{{- end -}}
{{- if and $coordination.tls (not .Values.tls.secretName) -}}
{{- fail "config.coordination.tls: there is no certificate; name the secret in tls.secretName" -}}
{{- end -}}
{{- if gt (int .Values.updatePartition) (int .Values.replicaCount) -}}
{{- fail (printf "updatePartition: %d of %d nodes means that none is ever updated" (int .Values.updatePartition) (int .Values.replicaCount)) -}}
{{- end -}}
{{- if gt (int $config.cluster.copies_required) (add (int .Values.replicaCount) (ternary 1 0 (not (empty $config.tier))) | int) -}}
{{- fail (printf "config.cluster.copies_required: %d copies on %d nodes cannot be" (int $config.cluster.copies_required) (int .Values.replicaCount)) -}}
{{- end -}}
{{- if and .Values.tls.enabled (not .Values.tls.secretName) -}}
{{- fail (include "perenne.locked" .) -}}
{{- end -}}
{{- end -}}

{{- /* What somebody types before the first installation, said where it is refused. */ -}}
{{- define "perenne.locked" -}}
tls.secretName: nodes know each other by certificates from the first start on, and there are none yet. Type

  {{ include "perenne.certs" . }}
  kubectl -n {{ .Release.Namespace }} create secret generic perenne-secrets --from-file=perenne-ca/secret

and install with --set tls.secretName=perenne-secrets. Keep perenne-ca off the cluster: whoever has it can make a node.
To do without knowingly, on a network where nobody else is: --set tls.enabled=false
{{- end -}}

{{- define "perenne.certs" -}}
{{- $root := . -}}
{{- $peers := include "perenne.peers" . -}}
perenne certs perenne-ca --secret
{{- range $i := until (int .Values.replicaCount) -}}
{{- $node := printf "%s-%d" (include "perenne.fullname" $root) $i }} {{ $node }}={{ $node }}.{{ $peers }},{{ $peers }}
{{- end -}}
{{- if not .Values.zookeeper.external -}}
{{- range splitList "," (include "perenne.zookeeperServers" .) }} {{ splitList "." . | first }}={{ . }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* Whether the chart's own ZooKeeper speaks TLS: "true" or nothing. */ -}}
{{- define "perenne.zookeeperTls" -}}
{{- if and .Values.tls.enabled .Values.zookeeper.bundled.tls (not .Values.zookeeper.external) -}}true{{- end -}}
{{- end -}}

{{- /* The name of the secret of one of `httpToken` and `zookeeper.credentialsSecret`; nothing when there is none. */ -}}
{{- define "perenne.secretOf" -}}
{{- if .own.enabled -}}{{ .own.name | default .root.Values.tls.secretName }}{{- end -}}
{{- end -}}

{{- define "perenne.httpTokenSecret" -}}
{{ include "perenne.secretOf" (dict "own" .Values.httpToken "root" .) }}
{{- end -}}

{{- define "perenne.zookeeperSecret" -}}
{{ include "perenne.secretOf" (dict "own" .Values.zookeeper.credentialsSecret "root" .) }}
{{- end -}}

{{- define "perenne.selectorLabels" -}}
app.kubernetes.io/name: perenne
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node
{{- end -}}

{{- define "perenne.zookeeperLabels" -}}
app.kubernetes.io/name: perenne
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: zookeeper
{{- end -}}

{{- define "perenne.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "perenne.labels" -}}
{{ include "perenne.selectorLabels" . }}
{{ include "perenne.commonLabels" . }}
{{- end -}}

{{- define "perenne.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "perenne.peers" -}}
{{ include "perenne.fullname" . }}-peers.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{- define "perenne.zookeeperServers" -}}
{{- $root := . -}}
{{- $name := printf "%s-zookeeper" (include "perenne.fullname" .) -}}
{{- range $i := until 3 }}{{ if $i }},{{ end }}{{ $name }}-{{ $i }}.{{ $name }}.{{ $root.Release.Namespace }}.svc.{{ $root.Values.clusterDomain }}{{ end -}}
{{- end -}}

{{- define "perenne.zookeeperPort" -}}
{{ ternary "2281" "2181" (not (empty (include "perenne.zookeeperTls" .))) }}
{{- end -}}

{{- define "perenne.zookeeper" -}}
{{- if .Values.zookeeper.external -}}
{{ .Values.zookeeper.external }}
{{- else -}}
{{- range $i, $server := splitList "," (include "perenne.zookeeperServers" .) }}{{ if $i }},{{ end }}{{ $server }}:{{ include "perenne.zookeeperPort" $ }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* What the chart itself decides about a node, over whatever `config` says. */ -}}
{{- define "perenne.config" -}}
{{- $forced := dict
    "node" (dict "data_dir" "/var/lib/perenne")
    "coordination" (dict "zookeeper" (include "perenne.zookeeper" .))
    "peer" (dict "host" "0.0.0.0" "port" 11111)
    "dimse" (dict "host" "0.0.0.0" "port" 11112)
    "http" (dict "host" "0.0.0.0" "port" 8080) -}}
{{- if include "perenne.zookeeperTls" . -}}
{{- $_ := set $forced.coordination "tls" true -}}
{{- end -}}
{{- if .Values.tier.claimName -}}
{{- $_ := set $forced "tier" (dict "kind" "directory" "directory" "/mnt/tier") -}}
{{- end -}}
{{- range $secret := fromJsonArray (include "perenne.secrets" .) -}}
{{- range $section, $keys := $secret.config | default dict -}}
{{- $_ := set $forced $section (merge (get $forced $section | default dict) $keys) -}}
{{- end -}}
{{- end -}}
{{- mustMergeOverwrite (deepCopy .Values.config) $forced | toJson -}}
{{- end -}}

{{- /* Every secret that is mounted: below /etc/perenne, with the keys of the configuration that name its files. */ -}}
{{- define "perenne.secrets" -}}
{{- $secrets := list -}}
{{- with .Values.tls -}}{{- if .secretName -}}
{{- $secrets = append $secrets (dict "name" "tls" "secretName" .secretName "path" "tls"
    "config" (dict "tls" (dict "authority_file" "/etc/perenne/tls/authority.pem"))) -}}
{{- end -}}{{- end -}}
{{- with include "perenne.httpTokenSecret" . -}}
{{- $secrets = append $secrets (dict "name" "http-token" "secretName" . "path" "http-token" "key" $.Values.httpToken.key "file" "token"
    "config" (dict "http" (dict "token_file" "/etc/perenne/http-token/token"))) -}}
{{- end -}}
{{- with include "perenne.zookeeperSecret" . -}}
{{- $secrets = append $secrets (dict "name" "zookeeper" "secretName" . "path" "zookeeper" "key" $.Values.zookeeper.credentialsSecret.key "file" "credentials"
    "config" (dict "coordination" (dict "credentials_file" "/etc/perenne/zookeeper/credentials"))) -}}
{{- end -}}
{{- with .Values.tier.credentialsSecret -}}{{- if .name -}}
{{- $secrets = append $secrets (dict "name" "s3" "secretName" .name "path" "s3" "key" .key "file" "credentials"
    "config" (dict "tier" (dict "credentials_file" "/etc/perenne/s3/credentials"))) -}}
{{- end -}}{{- end -}}
{{- with .Values.tier.caSecret -}}{{- if .name -}}
{{- $secrets = append $secrets (dict "name" "s3-ca" "secretName" .name "path" "s3-ca" "key" .key "file" "ca.crt"
    "config" (dict "tier" (dict "ca_file" "/etc/perenne/s3-ca/ca.crt"))) -}}
{{- end -}}{{- end -}}
{{- range .Values.secretFiles -}}
{{- $secrets = append $secrets (dict "name" (printf "secret-%s" .name) "secretName" .secretName "path" (printf "secrets/%s" .name)) -}}
{{- end -}}
{{- $secrets | toJson -}}
{{- end -}}

{{- define "perenne.httpScheme" -}}
{{ ternary "https" "http" (dig "http" "tls" false .Values.config) }}
{{- end -}}

{{- /* off, beside or only. */ -}}
{{- define "perenne.dicomTls" -}}
{{ dig "dimse" "tls" "off" .Values.config }}
{{- end -}}

{{- define "perenne.toml" -}}
# Written by the chart.
{{- range $section, $keys := fromJson (include "perenne.config" .) }}

[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ if kindIs "string" $value }}{{ $value | toJson }}{{ else if kindIs "bool" $value }}{{ $value }}{{ else }}{{ int64 $value }}{{ end }}
{{- end }}
{{- end }}
{{- range .Values.aes }}

[[ae]]
title = {{ .title | toJson }}
{{- with .host }}
host = {{ . | toJson }}
{{- end }}
{{- end }}
{{ end -}}

{{- /* From within where the port speaks TLS: a knock from outside would be a failed handshake in its log each time. */ -}}
{{- define "perenne.zookeeperProbe" -}}
{{- if include "perenne.zookeeperTls" . -}}
exec:
  command: [bash, -c, "exec 3<>/dev/tcp/127.0.0.1/2181"]
{{- else -}}
tcpSocket:
  port: client
{{- end -}}
{{- end -}}

{{- define "perenne.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
{{- end -}}

{{- define "perenne.podSecurity" -}}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
runAsGroup: {{ . }}
runAsNonRoot: true
runAsUser: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}
