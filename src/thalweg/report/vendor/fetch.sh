#!/bin/sh
# Fetches the libraries of the pages, their licences, and axe-core for the tests, from npm. Needs npm and a network.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tests=$here/../../../../tests/report/vendor
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The licences of the packages that a bundle contains. The date makes the same versions come each time.
# Arguments: the bundle, the file to write, and packages that are installed but not in the bundle.
licences() {
    bundle=$1 file=$2
    shift 2
    mkdir "$work/parts"
    (cd "$work/parts" && npm install --silent --ignore-scripts --no-audit --before=2026-01-01 "$bundle")
    for name in "$@"; do
        rm -r "$work/parts/node_modules/${name:?}"
    done
    for licence in "$work"/parts/node_modules/*/LICENSE; do
        folder=$(dirname "$licence")
        version=$(sed -n 's/^ *"version": *"\(.*\)".*/\1/p' "$folder/package.json" | head -n 1)
        printf -- '---- %s %s ----\n\n' "$(basename "$folder")" "$version"
        cat "$licence"
        printf '\n'
    done > "$file"
    rm -r "$work/parts"
}

cd "$work"
npm pack --silent d3@7.9.0 @observablehq/plot@0.6.17 axe-core@4.10.3
for name in d3-7.9.0 observablehq-plot-0.6.17 axe-core-4.10.3; do
    mkdir "$name"
    tar xzf "$name.tgz" -C "$name"
done
cp d3-7.9.0/package/dist/d3.min.js "$here/d3.min.js"
cp d3-7.9.0/package/LICENSE "$here/LICENSE.d3"
cp observablehq-plot-0.6.17/package/dist/plot.umd.min.js "$here/plot.umd.min.js"
cp observablehq-plot-0.6.17/package/LICENSE "$here/LICENSE.plot"
cp axe-core-4.10.3/package/axe.min.js axe-core-4.10.3/package/LICENSE "$tests/"
# commander, iconv-lite, rw and safer-buffer serve the command line of d3-dsv alone.
licences d3@7.9.0 "$here/LICENSE.d3-parts" d3 commander iconv-lite rw safer-buffer
# The bundle of Plot takes d3 from its own file.
licences interval-tree-1d@1.0.4 "$here/LICENSE.plot-parts"
licences isoformat@0.2.1 "$work/isoformat"
cat "$work/isoformat" >> "$here/LICENSE.plot-parts"
sha256sum "$here"/*.min.js "$tests/axe.min.js"
