# syntax=docker/dockerfile:1
# Triton with the executor, and the builder of its plans. The builder is made of the image that
# serves, so that plans are built by the TensorRT that runs them. From the root of the repository:
#   docker build -f k8s/images/triton.Dockerfile --target triton -t punctual-triton .
#   docker build -f k8s/images/triton.Dockerfile --target builder -t punctual-builder .
# TENSORRT is what that release of Triton has; the build fails if it is not.
ARG TRITON=25.10

FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3 AS triton
ARG TENSORRT=10.13.3.9
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
USER 0
WORKDIR /src
COPY k8s/images/triton.lock ./
RUN pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: \
    --target /opt/punctual -r triton.lock
# The bindings load the image's own libraries. Only the package that brings others is called
# tensorrt.
COPY k8s/images/tensorrt.py /opt/punctual/
COPY pyproject.toml README.md LICENSE ./
COPY serving serving
COPY builder builder
COPY loadtest loadtest
COPY punctual punctual
RUN pip install --no-cache-dir setuptools==80.9.0 --target /build \
    && PYTHONPATH=/build pip install --no-cache-dir --no-deps --no-build-isolation \
        --target /opt/punctual . \
    && rm -r /build /src/*
ENV PATH=/opt/punctual/bin:$PATH \
    PYTHONPATH=/opt/punctual \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
RUN python3 -m tensorrt "$TENSORRT"
COPY model_repo /models
USER 1000:1000
EXPOSE 8001 8002
ENTRYPOINT []
CMD ["tritonserver", "--model-repository=/models", "--disable-auto-complete-config"]

FROM triton AS builder
USER 0
COPY k8s/images/builder.lock /src/
RUN pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: \
    --target /opt/punctual -r /src/builder.lock
USER 1000:1000
ENTRYPOINT ["punctual"]
CMD ["build", "--help"]
