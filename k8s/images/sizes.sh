#!/bin/sh
# What the images add to their base images, in MB as files and compressed: an estimate, made by
# installing what their Dockerfiles install into folders.
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

add() { # layer, Python of the image
    pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes --no-deps \
        --only-binary :all: --python-version "$2" --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        --extra-index-url https://download.pytorch.org/whl/cpu \
        --target "$work/$1" -r "k8s/images/$1.lock"
}

show() { # layer
    files=$(du -sm "$work/$1" | cut -f 1)
    packed=$(tar -C "$work/$1" -c . | gzip -6 | wc -c)
    printf '%-10s %5d MB, %4d MB compressed\n' "$1" "$files" $((packed / 1000000))
}

add gateway 3.11
add search 3.11
add triton 3.12
add builder 3.12
mkdir "$work/own"
git archive HEAD serving builder loadtest model_repo ':!loadtest/results' | tar -x -C "$work/own"
for layer in own gateway search triton builder; do show "$layer"; done
echo 'gateway: own + gateway; search: search and a few; triton: own + triton; builder: own + triton + builder'
