# The images of Foretune's own processes. (That of trials is in trainer_image/.)
#
#   docker build --target light .         operator and tracker
#   docker build --target suggestion .    suggestion service, with torch
#
# Only instructions that both BuildKit and buildah 1.28 know. The digest is of all platforms; a newer one:
# docker buildx imagetools inspect python:3.11-slim-bookworm
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

# What all images need to build: pip works from outside the environment, which has none itself.
FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv --without-pip /opt/foretune
COPY pyproject.toml constraints.txt scripts/requirements.py ./

# The project's own wheel.
FROM build AS wheel
RUN pip install -c constraints.txt hatchling
COPY README.md LICENSE ./
COPY operator operator
COPY trainer_image trainer_image
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /dist .

# Dependencies before code: a change of the code leaves this layer as it is.
FROM build AS light-environment
COPY locks/light.txt ./
RUN pip --python /opt/foretune/bin/python install --require-hashes -r light.txt
COPY --from=wheel /dist /dist
RUN pip --python /opt/foretune/bin/python install --no-deps /dist/foretune-*.whl

FROM build AS suggestion-environment
# Where torch comes from besides PyPI. PyPI's own wheel for Linux brings CUDA (5 GB): empty takes that one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 requirements.py pyproject.toml suggestion > requirements.txt \
    && pip --python /opt/foretune/bin/python install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
        -c constraints.txt -r requirements.txt
COPY --from=wheel /dist /dist
RUN pip --python /opt/foretune/bin/python install --no-deps /dist/foretune-*.whl

# What all images need to run; nothing can be installed in it.
FROM ${PYTHON_IMAGE} AS run
RUN pip uninstall -y --root-user-action=ignore setuptools wheel pip \
    && ln -s /opt/foretune/bin/foretune /usr/local/bin/foretune
ENV PATH=/opt/foretune/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["foretune"]
CMD ["--help"]

FROM run AS suggestion
COPY --from=suggestion-environment /opt/foretune /opt/foretune

# Last, so that a build without --target makes this one.
FROM run AS light
COPY --from=light-environment /opt/foretune /opt/foretune
