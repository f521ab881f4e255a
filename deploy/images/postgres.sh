#!/bin/sh
# Makes the cluster at the first start, and becomes PostgreSQL: `start-postgres PORT [OPTIONS]`.
# The password of the user deepwell is in the file /run/secrets/postgres.
set -eu
port=$1
shift
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # A start that was killed leaves a part of a cluster: it is made anew
  rm -rf "$PGDATA" "$PGDATA.new"
  initdb --pgdata="$PGDATA.new" --username=deepwell --pwfile=/run/secrets/postgres --encoding=UTF8 --locale=C.UTF-8 \
    --auth-local=reject --auth-host=scram-sha-256 >/dev/null
  echo "host all all all scram-sha-256" >>"$PGDATA.new/pg_hba.conf"
  echo "CREATE DATABASE deepwell;" | postgres --single -D "$PGDATA.new" postgres >/dev/null
  echo "CREATE EXTENSION vector;" | postgres --single -D "$PGDATA.new" deepwell >/dev/null
  mv "$PGDATA.new" "$PGDATA"
fi
exec postgres -c listen_addresses='*' -c port="$port" -c unix_socket_directories= "$@"
