#!/bin/sh
# Pins everything that pip installs into the images, with hashes: run it, with uv installed, after
# a change to the dependencies in pyproject.toml or to TENSORRT in triton.Dockerfile.
set -eu
cd "$(dirname "$0")/../.."
tensorrt=$(sed -n 's/^ARG TENSORRT=//p' k8s/images/triton.Dockerfile)

lock() { # file, Python of the image, what to pin
    file=k8s/images/$1 python=$2
    shift 2
    uv pip compile --quiet --python-version "$python" --python-platform x86_64-manylinux_2_28 \
        --generate-hashes --no-header --no-annotate --no-emit-index-url --output-file "$file" "$@"
}

lock gateway.lock 3.11 --extra otel --extra triton pyproject.toml
# KubeRay asks Ray's dashboard how a job is.
printf '%s\n' 'ray[default]' |
    lock search.lock 3.11 --torch-backend cpu --extra builder --extra ray pyproject.toml -
# What builds is added to what serves, and agrees with it.
printf '%s\n' "tensorrt-cu13-bindings==$tensorrt" 'cuda-bindings>=13.0,<13.1' 'numpy>=2.0,<2.5' \
    'pillow>=12.0,<14' 'cykooz.resizer>=4.0,<4.1' |
    lock triton.lock 3.12 -
printf '%s\n' 'onnx>=1.19,<1.24' |
    lock builder.lock 3.12 --constraint k8s/images/triton.lock --no-emit-package numpy -
