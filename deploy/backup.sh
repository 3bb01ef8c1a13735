#!/bin/sh
# Copy a warehouse while runs go on in it: backup.sh WAREHOUSE BACKUP, both folders (GNU find and tar) or both s3:// prefixes (the aws command).
#
# The order is what makes it safe. Media first: files that rows stop naming later are still there. Then the tables' manifests, which say what a table is made
# of. Last all other files: those that a manifest names were written before it, are never changed, and outlive it by the retention of `maintain`.
# A backup goes into an empty place: manifests of an older one could win over those of a table that was made anew.
# Leases stay behind: they belong to runs of the warehouse that is copied.
# It ends with 0 only where everything is there: what a run took away meanwhile is missed by nobody, a file that cannot be read is.
set -eu
[ $# -eq 2 ] || { echo "usage: $0 WAREHOUSE BACKUP" >&2; exit 2; }
from=${1%/} to=${2%/}
no_warehouse() { echo "$from is no warehouse: nothing is in $from/sources" >&2; exit 2; }

case $from in
s3://*)
    [ -n "$(aws s3 ls "$from/sources/" | head -n 1)" ] || no_warehouse
    [ -z "$(aws s3 ls "$to/" | head -n 1)" ] || { echo "$to is not empty" >&2; exit 2; }
    aws s3 sync --only-show-errors "$from/media/" "$to/media/"
    aws s3 sync --only-show-errors "$from/sources/" "$to/sources/"
    aws s3 sync --only-show-errors "$from/tables/" "$to/tables/" --exclude '*' --include '*.manifest'
    aws s3 sync --only-show-errors "$from/media/" "$to/media/"
    aws s3 sync --only-show-errors "$from/tables/" "$to/tables/" --exclude '*/_versions/*'
    ;;
*)
    [ -n "$(ls -A "$from/sources" 2>/dev/null)" ] || no_warehouse
    mkdir -p "$to"
    [ -z "$(ls -A "$to")" ] || { echo "$to is not empty" >&2; exit 2; }
    to=$(cd "$to" && pwd)
    messages=$(mktemp)
    trap 'rm -f "$messages"' EXIT
    cd "$from"
    mkdir -p media tables
    copy() { { find "$@" -print0 | LC_ALL=C tar -c --null -T - --ignore-failed-read; } 2>>"$messages" | tar -x -C "$to"; }
    copy media sources -type f ! -name '.curation-tmp-*'
    copy tables -type f -name '*.manifest'
    copy media tables -name _versions -prune -o -type f ! -name '.tmp*' ! -name '.curation-tmp-*'
    # gone before its turn, or linked under another name while it was read: nothing is missing
    if grep -v -e 'No such file or directory' -e 'file changed as we read it' "$messages" >&2; then
        echo "the backup in $to is not complete" >&2
        exit 1
    fi
    ;;
esac
