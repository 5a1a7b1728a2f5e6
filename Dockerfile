# syntax=docker/dockerfile:1

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/dafu
ENV PATH=/opt/dafu/bin:$PATH
WORKDIR /src
COPY requirements.lock ./
RUN pip install -r requirements.lock
COPY . .
RUN pip install --no-deps .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/dafu --create-home dafu
COPY --from=build /opt/dafu /opt/dafu
ENV PATH=/opt/dafu/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/lib/dafu/numba
USER dafu
WORKDIR /var/lib/dafu
# Compile the kernels now, so that a worker does not spend its first seconds on it. A machine with
# another instruction set compiles them again: numba keys its cache by CPU.
RUN python -m dafu.warmup
EXPOSE 6066
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "dafu.web.health"]
ENTRYPOINT ["faust", "-A", "dafu.app"]
CMD ["worker", "-l", "info"]
