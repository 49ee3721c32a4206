# syntax=docker/dockerfile:1
# Searches for a pyramid, as every node of a Ray cluster. From the root of the repository:
#   docker build -f k8s/images/search.Dockerfile -t punctual-search .
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
RUN pip install --no-cache-dir setuptools==80.9.0 \
    && python -m venv --without-pip /opt/punctual
COPY k8s/images/search.lock ./
# Children train on CPUs: of torch, the build without CUDA, which PyPI does not have.
RUN pip --python /opt/punctual/bin/python install --no-cache-dir --require-hashes \
    --only-binary :all: --extra-index-url https://download.pytorch.org/whl/cpu -r search.lock
COPY pyproject.toml README.md LICENSE ./
COPY serving serving
COPY builder builder
COPY loadtest loadtest
COPY reporting reporting
COPY punctual punctual
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/punctual/bin/python install --no-cache-dir --no-deps /wheels/*.whl

FROM python:${PYTHON}
COPY --from=build /opt/punctual /opt/punctual
# KubeRay may start Ray by a login shell, which has a PATH of its own.
RUN ln -s /opt/punctual/bin/ray /opt/punctual/bin/punctual /usr/local/bin/
ENV PATH=/opt/punctual/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
CMD ["punctual", "search", "run", "--help"]
