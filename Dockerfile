# Two images from one file:
#   docker build --target service -t faultline-service .     the API; no torch, no onnx
#   docker build --target worker  -t faultline-worker  .     the audits; torch with CUDA, also runs on a CPU
# A CPU-only worker image is smaller: point pip at an index of CPU builds, the pinned version fits both:
#   docker build --target worker --build-arg PIP_EXTRA_INDEX_URL=<index of CPU builds> .

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/faultline/bin:$PATH \
    HOME=/tmp \
    FAULTLINE_DATA_DIR=/data
RUN groupadd --gid 10001 faultline \
    && useradd --uid 10001 --gid faultline --no-create-home --home-dir /tmp faultline \
    && install --directory --owner=faultline --group=faultline /data \
    && python -m venv /opt/faultline
WORKDIR /opt/faultline

# Dependencies change seldom, our packages often: two layers. The first one installs an empty package.
FROM base AS service-build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install -c constraints.txt setuptools \
    && pip install --no-build-isolation -c constraints.txt ".[service]"
COPY schemas schemas
COPY gate gate
COPY storage storage
COPY telemetry telemetry
COPY service service
RUN pip install --no-build-isolation --no-deps --force-reinstall .

FROM base AS worker-build
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install -c constraints.txt setuptools \
    && pip install --no-build-isolation -c constraints.txt ".[worker]"
COPY schemas schemas
COPY gate gate
COPY storage storage
COPY telemetry telemetry
COPY worker worker
RUN pip install --no-build-isolation --no-deps --force-reinstall .

FROM base AS service
# docker build --build-arg COMMIT=$(git rev-parse HEAD): GET /v1 tells it
ARG COMMIT
COPY --from=service-build /opt/faultline /opt/faultline
ENV FAULTLINE_HOST=0.0.0.0 \
    FAULTLINE_PORT=8321 \
    FAULTLINE_COMMIT=$COMMIT
USER 10001:10001
VOLUME /data
EXPOSE 8321
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8321/healthz', timeout=4)"]
CMD ["python", "-m", "service"]

FROM base AS worker
COPY --from=worker-build /opt/faultline /opt/faultline
# What the NVIDIA container runtime needs; without a GPU they do nothing.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
VOLUME /data
# A worker has no port. Whether workers take jobs is seen by the API's /readyz; one that cannot go on ends by itself.
HEALTHCHECK NONE
CMD ["python", "-m", "worker"]
