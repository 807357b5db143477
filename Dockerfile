# Serves a trained folder:
#   docker build -t music-map .
#   docker run -p 8000:8000 -e MUSIC_MAP_TOKEN=$(openssl rand -hex 32) -v $PWD/checkpoints/demo:/model:ro \
#     -v music-map-events:/events music-map
# Every other command, with files of your own user:
#   docker run --user=$(id -u) -e HOME=/tmp -v $PWD:/here -w /here music-map train --config=configs/demo.py --workdir=run
FROM python:3.13-slim AS build
COPY setup.py pyproject.toml README.md /source/
COPY music_map /source/music_map
COPY launch /source/launch
COPY configs /source/configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir=/dist /source

FROM python:3.13-slim
COPY --from=build /dist /dist
RUN pip install --no-cache-dir "$(echo /dist/*.whl)[serve]" \
    && useradd --create-home listener && install --directory --owner=listener /events
USER listener
VOLUME ["/model", "/events"]
EXPOSE 8000
ENTRYPOINT ["music-map"]
# Other hosts can connect, so the service wants MUSIC_MAP_TOKEN.
CMD ["serve", "--workdir=/model", "--events=/events/events.sqlite", "--host=0.0.0.0", "--port=8000"]
