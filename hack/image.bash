# shellcheck shell=bash
# Makes images from files of this machine, keeps them by content, and serves them from a registry on loopback.
# A script that sources this names its images and what they are made of:
#   names      the images                     fill_NAME  fills $root, sets $config (settings) and $owned (directories of user 101)
#   served     those of them that the registry holds (all when there are none)
#   refs[N]    references of image N          inputs[N]  files it is made of; with the scripts they decide what is made again
set -euo pipefail
declare -a names=() served=()
declare -A refs=() inputs=()
cache=${CORACLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/coracle}/images
die() { echo "${0##*/}: $*" >&2; exit 1; }
digest() { sha256sum "$1" | cut -d' ' -f1; }

# A program with the libraries it loads.
program() {
  local file
  install -D "$1" "$root$1"
  while read -r file; do
    [ -e "$root$file" ] || install -D "$file" "$root$file"
  done < <(ldd "$1" 2>/dev/null | grep -o '/[^ ]*' || true)
}

# What every image has: the usual directories, accounts and a shell.
base() {
  local applet
  mkdir -p "$root"/{dev,etc,home,proc,root,run,sys,tmp,usr/{bin,sbin,lib,lib64},var/{cache,lib,log,spool}}
  for link in bin sbin lib lib64; do ln -s "usr/$link" "$root/$link"; done
  ln -s /run "$root/var/run"
  chmod 1777 "$root/tmp"
  chmod 700 "$root/root"
  printf '%s\n' root:x:0:0:root:/root:/bin/sh daemon:x:1:1:daemon:/usr/sbin:/bin/false \
    www-data:x:33:33:www-data:/var/www:/bin/false nobody:x:65534:65534:nobody:/home:/bin/false >"$root/etc/passwd"
  printf '%s\n' root:x:0: daemon:x:1: tty:x:5: www-data:x:33: nogroup:x:65534: >"$root/etc/group"
  printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
  install -m 755 /bin/busybox "$root/bin/busybox"
  for applet in $(busybox --list); do
    [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
  done
}

fill_nginx() {
  program /usr/sbin/nginx
  echo nginx:x:101:101:nginx:/nonexistent:/bin/false >>"$root/etc/passwd"
  echo nginx:x:101: >>"$root/etc/group"
  mkdir -p "$root"/{etc/nginx/conf.d,usr/share/nginx/html,var/log/nginx,docker-entrypoint.d}
  # Made and owned beforehand, so that a read-only root does no harm.
  mkdir -p "$root"/var/{cache/nginx,lib/nginx}/{body,proxy,fastcgi,uwsgi,scgi}
  owned=(var/cache/nginx var/lib/nginx)
  install -m 644 /etc/nginx/{mime.types,fastcgi_params,proxy_params,scgi_params,uwsgi_params} "$root/etc/nginx/"
  ln -s /dev/stdout "$root/var/log/nginx/access.log"
  ln -s /dev/stderr "$root/var/log/nginx/error.log"
  cat >"$root/etc/nginx/nginx.conf" <<'END'
user nginx;
worker_processes 2;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    log_format main '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"';
    access_log /var/log/nginx/access.log main;
    sendfile on;
    keepalive_timeout 65;
    client_body_temp_path /var/cache/nginx/body;
    proxy_temp_path /var/cache/nginx/proxy;
    fastcgi_temp_path /var/cache/nginx/fastcgi;
    uwsgi_temp_path /var/cache/nginx/uwsgi;
    scgi_temp_path /var/cache/nginx/scgi;
    include /etc/nginx/conf.d/*.conf;
}
END
  cat >"$root/etc/nginx/conf.d/default.conf" <<'END'
server {
    listen 80;
    listen [::]:80;
    server_name localhost;
    location / { root /usr/share/nginx/html; index index.html index.htm; }
}
END
  cat >"$root/usr/share/nginx/html/index.html" <<'END'
<!DOCTYPE html>
<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>
END
  config='"Cmd":["nginx","-g","daemon off;"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"'
}

# Builds image $1 unless it is in the cache; sets $made, a folder with archive.tar and what a registry wants.
make_image() {
  local name=$1 file key root config owned=() part exclude=()
  for file in ${inputs[$name]}; do [ -e "$file" ] || die "$file is missing: hack/deps tests"; done
  # shellcheck disable=SC2086 # a list of files
  key=$( { cat "$0"; declare -f program base fill_nginx make_image; echo "$name ${refs[$name]}"; sha256sum ${inputs[$name]}; } | sha256sum | cut -c1-16)
  made=$cache/$name-$key
  [ ! -d "$made" ] || return 0
  mkdir -p "$cache"
  scratch=$(mktemp -d "$cache/building.XXXXXX")
  root=$scratch/root
  base
  "fill_$name"
  for part in "${owned[@]}"; do exclude+=(--exclude="./$part"); done
  local same=(--sort=name --numeric-owner --mtime=@0 --format=gnu -C "$root")
  tar "${same[@]}" "${exclude[@]}" --owner=0 --group=0 -cf "$scratch/layer.tar" .
  for part in "${owned[@]}"; do tar "${same[@]}" --owner=101 --group=101 -rf "$scratch/layer.tar" "./$part"; done
  rm -rf "$root"
  gzip -n1c "$scratch/layer.tar" >"$scratch/layer.tar.gz"
  local env='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]' machine
  case $(uname -m) in x86_64) machine=amd64 ;; aarch64) machine=arm64 ;; *) machine=$(uname -m) ;; esac
  printf '{"architecture":"%s","os":"linux","config":{%s,%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$machine" "$env" "$config" "$(digest "$scratch/layer.tar")" >"$scratch/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "${refs[$name]// /\",\"}" >"$scratch/manifest.json"
  tar -C "$scratch" -cf "$scratch/archive.tar" manifest.json config.json layer.tar
  rm "$scratch/layer.tar" "$scratch/manifest.json"
  # Another run may have been faster.
  mv -T "$scratch" "$made" 2>/dev/null || rm -rf "$scratch"
  scratch=""
}

push_blob() { # registry repository file
  local place mark='?' of
  of=sha256:$(digest "$3")
  ! curl -fsI -o /dev/null "http://$1/v2/$2/blobs/$of" || return 0
  place=$(curl -fsS -o /dev/null -D - -X POST "http://$1/v2/$2/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  case $place in /*) place=http://$1$place ;; esac
  case $place in *\?*) mark='&' ;; esac
  curl -fsS -o /dev/null -H 'Content-Type: application/octet-stream' -T "$3" "$place${mark}digest=$of"
}

push() { # registry reference
  local path=${2#*/} config=$made/config.json layer=$made/layer.tar.gz kind=application/vnd.oci.image
  push_blob "$1" "${path%:*}" "$config"
  push_blob "$1" "${path%:*}" "$layer"
  printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"%s","digest":"sha256:%s","size":%s}]}' \
    $kind.manifest.v1+json $kind.config.v1+json "$(digest "$config")" "$(stat -c %s "$config")" \
    $kind.layer.v1.tar+gzip "$(digest "$layer")" "$(stat -c %s "$layer")" |
    curl -fsS -o /dev/null -X PUT -H "Content-Type: $kind.manifest.v1+json" --data-binary @- "http://$1/v2/${path%:*}/manifests/${path##*:}"
}

# Pushes all images to a registry of its own on address $1, prints "ready", runs until it is killed.
serve() {
  local address=${1:?usage: serve ADDR} name ref try
  case $address in 127.*|localhost:*|\[::1\]:*) ;; *) die "$address is not a loopback address" ;; esac
  command -v docker-registry >/dev/null || die "docker-registry is missing: hack/deps tests"
  [ ${#served[@]} -gt 0 ] || served=("${names[@]}")
  for name in "${served[@]}"; do make_image "$name"; done
  # Ended by the kernel with this script, whatever ends that. What was pushed once is kept beside the images.
  setpriv --pdeathsig KILL docker-registry serve <(
    printf 'version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: "%s"}, maintenance: {uploadpurging: {enabled: false}}}\nhttp: {addr: "%s"}\n' "$cache/registry" "$address"
  ) >/dev/null 2>&1 &
  registry=$!
  for ((try = 0; ; try++)); do
    curl -fs -o /dev/null "http://$address/v2/" && kill -0 "$registry" 2>/dev/null && break
    if [ "$try" -ge 100 ] || ! kill -0 "$registry" 2>/dev/null; then die "docker-registry does not run on $address"; fi
    sleep 0.1
  done
  for name in "${served[@]}"; do
    make_image "$name"
    for ref in ${refs[$name]}; do push "$address" "$ref"; done
  done
  echo "ready: http://$address"
  wait "$registry"
}

scratch=""
registry=""
trap '[ -z "$scratch" ] || rm -rf "$scratch"; [ -z "$registry" ] || kill "$registry" 2>/dev/null || true' EXIT
trap 'exit 143' TERM INT HUP
