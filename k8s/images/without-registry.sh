#!/bin/sh
# Builds the gateway's image where no registry of images can be reached: gateway.Dockerfile as it is, on a base that is
# made of Debian's packages. As root, with Debian's buildah and mmdebstrap; pip gets what the lock says:
#   k8s/images/without-registry.sh [IMAGE]
set -eu
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
image=${1:-localhost/punctual-gateway:$version}
base=localhost/punctual-base:bookworm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What Docker's python:slim is: a Debian with an interpreter, pip and venv that anybody may use. One that is there is
# used again; buildah rmi it for another with Debian's latest.
if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --customize-hook='ln -s python3 "$1/usr/bin/python"' \
        --customize-hook='rm "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' \
        bookworm "$work/base.tar"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/base.tar" /
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit --quiet --rm "$container" "$base"
fi

# Where pip finds packages, and whom it trusts, is this machine's matter and stays out of the image.
set -- --volume /etc/ssl/certs:/etc/ssl/certs:ro
[ ! -e /etc/pip.conf ] || set -- "$@" --volume /etc/pip.conf:/etc/pip.conf:ro
buildah build --isolation chroot --network host --pull-never "$@" \
    --build-arg BASE="$base" \
    --file k8s/images/gateway.Dockerfile --ignorefile k8s/images/gateway.Dockerfile.dockerignore \
    --tag "$image" .
buildah push --quiet "$image" "oci-archive:$work/image.tar"
size() { buildah images --format '{{.Size}}' "$1"; }
echo "$image: $(size "$image") as files, $(du -m "$work/image.tar" | cut -f 1) MB compressed; of that the base: $(size "$base")"
