#!/usr/bin/env bash
# This script has the main parts of the interface of the official postgres image: POSTGRES_*, *_FILE, PGDATA, /docker-entrypoint-initdb.d.
set -eo pipefail

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Export the variable with the name $1. Its value is the content of the file that the variable $1_FILE names, or else the value
# that it already has, or else $2.
setting() {
  local file="${1}_FILE"
  if [[ -n ${!file} ]]; then
    [[ -z ${!1} ]] || die "$1 and $file are both set: keep one of them"
    [[ -r ${!file} ]] || die "$file: uid $(id -u) cannot read ${!file}"
    export "$1=$(<"${!file}")"
  else
    export "$1=${!1:-$2}"
  fi
}

run_init_file() {
  case $1 in
    *.sh)
      if [[ -x $1 ]]; then
        "$1"
      else
        # shellcheck source=/dev/null
        source "$1"
      fi
      ;;
    *.sql) psql --no-psqlrc --set ON_ERROR_STOP=1 --file "$1" ;;
    *.sql.gz) gunzip --stdout "$1" | psql --no-psqlrc --set ON_ERROR_STOP=1 ;;
    *) echo "ignored: $1" ;;
  esac
}

# Create a cluster in a directory whose name ends in .init, and rename the directory when the cluster is complete. So if this
# script is killed, no incomplete cluster is used. The function runs in a subshell, so that the server that this script starts
# at the end does not inherit the variables for initdb.d.
initialise() (
  target=${PGDATA%.init}
  setting POSTGRES_PASSWORD
  setting POSTGRES_USER postgres
  setting POSTGRES_DB "$POSTGRES_USER"
  setting POSTGRES_INITDB_ARGS
  setting POSTGRES_HOST_AUTH_METHOD scram-sha-256

  if [[ $POSTGRES_HOST_AUTH_METHOD == trust ]]; then
    echo 'warning: POSTGRES_HOST_AUTH_METHOD=trust lets in everyone who can reach the port' >&2
  elif [[ -z $POSTGRES_PASSWORD ]]; then
    die 'set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE: the superuser of a new cluster needs a password'
  fi
  ! mountpoint --quiet "$target" || die "PGDATA $target is a mount point: name a directory below it"
  [[ -z $(ls -A "$target" 2>/dev/null) ]] || die "PGDATA $target is neither empty nor a cluster"
  # After an upgrade, the former image must not begin anew.
  [[ -n $CLUSTER || -z $(compgen -G "${target%/*}/former-*") ]] || die "there are former databases beside $target, but no present one"

  mkdir -p "$(dirname "$target")"
  rm -rf "$PGDATA"
  local initdb_args
  eval "initdb_args=($POSTGRES_INITDB_ARGS)"
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --data-checksums "${initdb_args[@]}"
  printf 'host all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >> "$PGDATA/pg_hba.conf"

  export PGUSER=$POSTGRES_USER PGDATABASE=$POSTGRES_DB PGPASSWORD=$POSTGRES_PASSWORD
  unset PGHOST PGHOSTADDR
  pg_ctl start --wait --options "$(printf '%q ' "${@:2}" -c listen_addresses=)"
  [[ $POSTGRES_DB == postgres ]] || createdb --maintenance-db postgres "$POSTGRES_DB"
  for file in /docker-entrypoint-initdb.d/*; do
    [[ ! -e $file ]] || run_init_file "$file"
  done
  pg_ctl stop --wait --mode fast

  sync --file-system "$PGDATA"
  mv --no-target-directory "$PGDATA" "$target"
)

# pgBackRest reads its secrets only from its configuration or from the environment.
configure_pgbackrest() {
  umask 077
  mkdir -p "$PGBACKREST_CONFIG_INCLUDE_PATH"
  {
    printf '[global]\nrepo1-cipher-pass=%s\n' "$(<"$BACKUP_PASSPHRASE_FILE")"
    [[ -z $BACKUP_S3_SECRET_FILE ]] || printf 'repo1-s3-key-secret=%s\n' "$(<"$BACKUP_S3_SECRET_FILE")"
  } > "$PGBACKREST_CONFIG_INCLUDE_PATH/secrets.conf"
}

[[ $1 != -* ]] || set -- postgres "$@"

# A service that does not use the cluster in service names another one beside it.
if [[ -n $CLUSTER ]]; then
  PGDATA="${PGDATA%/*}/$CLUSTER"
  export PGDATA PGBACKREST_PG1_PATH="$PGDATA"
fi

if [[ -n $BACKUP_PASSPHRASE_FILE ]]; then
  (configure_pgbackrest)
fi

if [[ $1 == postgres && ! " $* " =~ \ (-\?|--help|-V|--version|--describe-config|-C)\  ]]; then
  if [[ ! -s $PGDATA/PG_VERSION ]]; then
    PGDATA="$PGDATA.init" initialise "$@"
  elif [[ $(<"$PGDATA/PG_VERSION") != "$PG_MAJOR" ]]; then
    die "$PGDATA was made by PostgreSQL $(<"$PGDATA/PG_VERSION") and this is PostgreSQL $PG_MAJOR: use upgrade_database.yml"
  fi
  unset "${!POSTGRES_@}"
fi

exec "$@"
