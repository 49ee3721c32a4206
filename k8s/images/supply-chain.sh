#!/bin/sh
# What pip puts into an image, as a list in the form of CycloneDX, and what PyPI's advisories say of it:
#   pip install 'cyclonedx-bom>=7,<8' 'pip-audit>=2.10,<3'
#   k8s/images/supply-chain.sh gateway > gateway.cdx.json
# It ends with 1 where something is known to be vulnerable, or could not be looked up.
set -eu
cd "$(dirname "$0")/../.."
lock=k8s/images/$1.lock
cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml --mc-type application \
    --output-format JSON "$lock"
pip-audit --strict --progress-spinner off --require-hashes --disable-pip --requirement "$lock" >&2
