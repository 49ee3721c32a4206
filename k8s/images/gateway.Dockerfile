# syntax=docker/dockerfile:1
# The gateway with the engine for CPUs and the models of the repository. From the root of the repository:
#   docker build -f k8s/images/gateway.Dockerfile -t punctual-gateway .
# Whoever has a registry pins the base: --build-arg BASE=python:3.11.14-slim-bookworm@sha256:...
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
# Neither pip nor setuptools goes into the environment that is served from.
RUN pip install --no-cache-dir setuptools==80.9.0 \
    && python -m venv --without-pip /opt/punctual
COPY k8s/images/gateway.lock ./
RUN pip --python /opt/punctual/bin/python install --no-cache-dir --require-hashes \
    --only-binary :all: -r gateway.lock
COPY pyproject.toml README.md LICENSE ./
COPY serving serving
COPY builder builder
COPY loadtest loadtest
COPY punctual punctual
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/punctual/bin/python install --no-cache-dir --no-deps /wheels/*.whl

FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="punctual-gateway" \
    org.opencontainers.image.description="An inference server for object detection that answers on time" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="${BASE}"
COPY --from=build /opt/punctual /opt/punctual
COPY model_repo /models
ENV PATH=/opt/punctual/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    PUNCTUAL_HOST=0.0.0.0 \
    PUNCTUAL_MODEL_REPOSITORY=/models
USER 1000:1000
EXPOSE 8000
ENTRYPOINT ["punctual"]
CMD ["serve"]
