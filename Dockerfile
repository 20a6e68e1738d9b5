# Three images from one file; the entry point of each is `rerank`:
#
#   docker build --target producer -t rerankfleet-producer .
#   docker build --target worker   -t rerankfleet-worker:cpu .
#   docker build --target worker   -t rerankfleet-worker:cuda . --build-arg APT_PACKAGES="gcc libc6-dev"
#
# Where packages come from is pip's own configuration. On Linux its default torch is the CUDA build, which also
# runs on a CPU; a smaller CPU image is made with TORCH_PIP_OPTIONS, the options of pip that lead to a CPU build.
#
# `producer` submits, watches, coordinates and is the gateway, Parquet included, and has no torch; `worker` scores.

FROM python:3.11.16-slim@sha256:e41613d42d4891e4930f79523f93f81bbc7632584ec65e36ab055f41a800b41e AS base
RUN groupadd --gid 10001 rerank \
    && useradd --uid 10001 --gid 10001 --create-home rerank \
    && install -d -o 10001 -g 10001 /data /var/cache/rerank
# HOME is named so that a user id of the host, which has no entry here, finds one too
ENV PATH=/opt/venv/bin:$PATH HOME=/home/rerank PYTHONUNBUFFERED=1
WORKDIR /data

FROM base AS build
RUN python -m venv /opt/venv
WORKDIR /src
COPY constraints.txt ./

FROM build AS build-producer
COPY pyproject.toml README.md LICENSE ./
COPY rerankfleet rerankfleet
COPY shared shared
COPY producer producer
COPY workers workers
COPY studies studies
COPY chaos chaos
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt '.[gateway,parquet]' && pip check

FROM build AS build-worker
ARG TORCH_PIP_OPTIONS=
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps $TORCH_PIP_OPTIONS "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY rerankfleet rerankfleet
COPY shared shared
COPY producer producer
COPY workers workers
COPY studies studies
COPY chaos chaos
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt '.[worker,languages]' && pip check

FROM base AS producer
COPY --from=build-producer /opt/venv /opt/venv
USER 10001:10001
ENTRYPOINT ["rerank"]
CMD ["--help"]

FROM base AS worker
# on CUDA torch compiles its fused kernels where they run, which takes a C compiler
ARG APT_PACKAGES=""
RUN if [ -n "$APT_PACKAGES" ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends $APT_PACKAGES \
        && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build-worker /opt/venv /opt/venv
# models from the hub and compiled kernels outlive the container, whose own files are read-only
ENV HF_HOME=/var/cache/rerank/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/rerank/inductor \
    TRITON_CACHE_DIR=/var/cache/rerank/triton \
    CUDA_CACHE_PATH=/var/cache/rerank/cuda
VOLUME /var/cache/rerank
USER 10001:10001
# healthy: a worker of this host sends heartbeats and has loaded its model (a download takes a while)
HEALTHCHECK --interval=30s --timeout=20s --start-period=10m --start-interval=5s --retries=3 \
    CMD rerank health worker
ENTRYPOINT ["rerank"]
CMD ["worker", "--help"]
