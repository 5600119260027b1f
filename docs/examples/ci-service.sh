#!/bin/sh
# Runs a command that needs a TCP service of the overlay, such as tests that need a database:
#
#   EDGEPROXY_ADMIN_ADDR=10.0.0.5:9090 EDGEPROXY_ADMIN_TOKEN_FILE=token SERVICE=10.50.0.9:5432 ci-service.sh make test
#
# While the command runs, LOCAL leads to SERVICE, by a peer that is made for this run. It is removed at the end; should
# this machine die before, it ends after TTL. The private key never leaves this machine. Needs neither root nor a TUN
# interface; the exit code is that of the command. EDGEPROXY_ADMIN_ADDR and EDGEPROXY_ADMIN_TOKEN_FILE say where the
# gateway's API is, and what opens it.
set -eu

: "${SERVICE:?the address and port of the service inside the overlay, such as 10.50.0.9:5432}"
LOCAL=${LOCAL:-127.0.0.1:15432}
# Where the proxy of this run tells whether it is ready.
READY=${READY:-127.0.0.1:19090}
NAME=${NAME:-ci-$$}
TTL=${TTL:-1h}

umask 077
folder=$(mktemp -d)
peer=
proxy=

finish() {
    code=$?
    trap - EXIT INT TERM
    if [ -n "$proxy" ]; then
        kill "$proxy" 2>/dev/null || :
        wait "$proxy" 2>/dev/null || :
    fi
    [ -z "$peer" ] || edgeproxy peer rm --if-exists "$peer" >&2 || :
    rm -rf "$folder"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

peer=$(edgeproxy peer add --name "$NAME" --tag ci --ttl "$TTL" --out "$folder/wg.conf")
edgeproxy route add service --region fra --addr "$SERVICE" --db "$folder/routing.db" >&2

# The gateway's token is none of the proxy's.
EDGEPROXY_OVERLAY_MODE=netstack EDGEPROXY_ADMIN_TOKEN_FILE='' edgeproxy proxy --overlay "$folder/wg.conf" \
    --db "$folder/routing.db" --region fra --listen "$LOCAL" --admin "$READY" >"$folder/log" 2>&1 &
proxy=$!
tries=0
until curl -fso "$folder/ready" "http://$READY/readyz"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ] || ! kill -0 "$proxy" 2>/dev/null; then
        cat "$folder/log" >&2
        exit 1
    fi
    sleep 0.1
done

"$@"
