#!/bin/sh
# Becomes Valkey: `start-valkey PORT [OPTIONS]`. The password is in the file /run/secrets/valkey, and in no argument.
# What it holds may be lost: limits start again, and answers are computed again.
set -eu
port=$1
shift
printf 'port %s\nrequirepass %s\n' "$port" "$(cat /run/secrets/valkey)" |
  exec valkey-server - --save "" --appendonly no --maxmemory 256mb --maxmemory-policy allkeys-lru "$@"
