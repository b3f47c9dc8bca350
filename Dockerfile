# syntax=docker/dockerfile:1

# The server with everything it needs; weights are kept in the volume /weights. On Linux x86-64 torch includes CUDA,
# and the server uses a GPU if the NVIDIA container toolkit passes one in:
# docker run --gpus all -p 127.0.0.1:8000:8000 -v weights:/weights IMAGE

FROM python:3.12-slim AS build
WORKDIR /build
RUN python -m venv --without-pip /venv
# torch is installed first, in its own layer, which is rebuilt only when constraints.txt changes.
# For an image without CUDA, a fraction of the size: --build-arg TORCH_INDEX=ADDRESS, where ADDRESS is the package
# index that PyTorch's install page gives for "CPU".
ARG TORCH_INDEX=
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /venv/bin/python install --constraint constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY pyproject.toml ./
COPY constraints-cluster.txt ./
# With the extra `otel`, so that traces need only the OTEL_* variables. "otel cluster postgres s3" has Ray too, and the
# drivers of SAM2_REGISTER_URL and SAM2_CACHE_URL: docs/scaling.md.
ARG EXTRAS=otel
RUN EXTRAS="$EXTRAS" python -c "import os, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    extras = [p['optional-dependencies'][name] for name in os.environ['EXTRAS'].split()]; \
    print(*p['dependencies'], *sum(extras, []), sep='\n')" > requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /venv/bin/python install --constraint constraints.txt --constraint constraints-cluster.txt \
    --requirement requirements.txt

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home sam2 && install --directory --owner sam2 --group sam2 /weights /cache
COPY --from=build /venv /venv
WORKDIR /srv
COPY model ./model
COPY app ./app
COPY client/js ./client/js
# PYTHONPATH: `ray start` runs this code from other folders.
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/srv \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SAM2_HOST=0.0.0.0 \
    SAM2_PORT=8000 \
    SAM2_WEIGHTS_DIR=/weights \
    SAM2_CACHE_DIR=/cache
USER sam2
VOLUME ["/weights", "/cache"]
EXPOSE 8000
# The check uses /readyz, not /healthz. So "healthy" means that requests are answered, which depends_on waits for, and
# a server whose model or device failed is unhealthy. /readyz does not use the device, so a busy server stays
# healthy. The start period leaves time to download the weights. localhost is ::1 too, for SAM2_HOST=::.
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('localhost', int(os.environ['SAM2_PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "app"]
