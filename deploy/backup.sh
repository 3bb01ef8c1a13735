#!/bin/sh
# Copy a warehouse while runs go on in it: backup.sh WAREHOUSE BACKUP, both folders (GNU find and tar) or both s3:// prefixes (the aws command).
#
# The order is what makes it safe. Media first: files that rows stop naming later are still there. Then the tables' manifests, which say what a table is made
# of. Last all other files: those that a manifest names were written before it, are never changed, and outlive it by the retention of `maintain`.
# A backup goes into an empty place: manifests of an older one could win over those of a table that was made anew.
# Leases stay behind: they belong to runs of the warehouse that is copied.
set -eu
[ $# -eq 2 ] || { echo "usage: $0 WAREHOUSE BACKUP" >&2; exit 2; }
from=${1%/} to=${2%/}

case $from in
s3://*)
    [ -z "$(aws s3 ls "$to/" | head -n 1)" ] || { echo "$to is not empty" >&2; exit 2; }
    aws s3 sync --only-show-errors "$from/media/" "$to/media/"
    aws s3 sync --only-show-errors "$from/sources/" "$to/sources/"
    aws s3 sync --only-show-errors "$from/tables/" "$to/tables/" --exclude '*' --include '*.manifest'
    aws s3 sync --only-show-errors "$from/media/" "$to/media/"
    aws s3 sync --only-show-errors "$from/tables/" "$to/tables/" --exclude '*/_versions/*'
    ;;
*)
    mkdir -p "$to"
    [ -z "$(ls -A "$to")" ] || { echo "$to is not empty" >&2; exit 2; }
    to=$(cd "$to" && pwd)
    cd "$from"
    mkdir -p media sources tables
    # a file that is gone before its turn was needed by nobody any more: a warning
    copy() { tar -c --null -T - --ignore-failed-read | tar -x -C "$to"; }
    find media sources -type f ! -name '.curation-tmp-*' -print0 | copy
    find tables -type f -name '*.manifest' -print0 | copy
    find media tables -name _versions -prune -o -type f ! -name '.tmp*' ! -name '.curation-tmp-*' -print0 | copy
    ;;
esac
