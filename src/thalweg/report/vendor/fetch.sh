#!/bin/sh
# Fetches the libraries of the pages, and axe-core for the tests, from npm. Needs npm and a network.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tests=$here/../../../../tests/report/vendor
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
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
sha256sum "$here"/*.min.js "$tests/axe.min.js"
