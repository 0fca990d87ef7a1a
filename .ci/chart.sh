#!/usr/bin/env bash
# Holds the Helm chart to Kubernetes' schemas, and its parts to each other, with as little set
# as can be and with everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source .ci/tools.sh
readonly chart=deploy/helm/hitkeep-auth helm=$TOOLS/bin/helm least=$TOOLS/chart-least.yaml \
    everything=$TOOLS/chart-everything.yaml
readonly required=(--set image.repository=registry.example.com/hitkeep-auth)
readonly all=("${required[@]}" --set networkPolicy.enabled=true --set replica.enabled=true
    --set tls.secretName=certificate --set migration.secretName=owner
    --set-string server.env.HITKEEP_AUTH_MAX_CALLS=512 --set server.nodeSelector.disk=none
    --set 'server.tolerations[0].operator=Exists' --set 'imagePullSecrets[0].name=registry')
for version in 1.30 1.37; do
    "$helm" lint --quiet --strict --kube-version "$version.0" "${all[@]}" "$chart"
    "$helm" template hitkeep-auth --kube-version "$version.0" "${required[@]}" "$chart" >"$least"
    "$helm" template production --kube-version "$version.0" "${all[@]}" "$chart" >"$everything"
    validator kubernetes-validate --quiet --strict --kubernetes-version "$version" "$least" "$everything"
done
validator python3 .ci/kubernetes.py "$everything"
# What the ports of the servers and of the replicas speak: gateways and meshes go by it.
speaks() {
    local -r expected=$1
    shift
    local -r found=$("$helm" template hitkeep-auth --kube-version 1.30.0 "${required[@]}" \
        --set replica.enabled=true "$@" "$chart" | sed -n 's/.*appProtocol: \([^ ]*\) }$/\1/p' | xargs)
    [[ $found == "$expected" ]] || { echo "With $*, the ports speak $found." >&2 && return 1; }
}
speaks "kubernetes.io/h2c http kubernetes.io/h2c http kubernetes.io/h2c"
speaks "kubernetes.io/h2c http https http https" --set tls.secretName=certificate
speaks "kubernetes.io/h2c http https https https" --set tls.secretName=certificate \
    --set-string server.env.HITKEEP_AUTH_HTTP_TLS=true
# What is misspelt, or not there, is refused.
for wrong in server.replica=3 image.repository= server.env.MAX_CALLS=x database.secretName= \
    replica.secretName= networkPolicy.callerLabels.hitkeep-auth-caller=null; do
    if "$helm" template hitkeep-auth --kube-version 1.30.0 "${required[@]}" --set "$wrong" \
        "$chart" >/dev/null 2>&1; then
        echo "The chart accepts $wrong." >&2
        exit 1
    fi
done
