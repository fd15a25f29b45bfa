#!/bin/sh
# Makes sure that there is something to run shaders on, and says nothing where there is.
#
#     scripts/setup.sh [PATH-OF-INKWASH]
#
# With a built inkwash, that is asked whether it finds a Vulkan adapter; without one, the loader and the
# drivers' manifests are looked for. Where they are missing, the distribution's Mesa drivers are installed:
# they serve AMD and Intel GPUs, and lavapipe among them runs on any CPU. NVIDIA's driver is the user's to choose.
set -eu

# macOS has Metal, and Windows Direct3D 12: nothing to install.
[ "$(uname -s)" = Linux ] || exit 0

binary=${1:-}
PATH=$PATH:/sbin:/usr/sbin

has_loader() {
    ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'
}

has_driver() {
    if [ -n "${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}" ]; then
        return 0
    fi
    for folder in /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d /usr/share/vulkan/icd.d "$HOME/.local/share/vulkan/icd.d"; do
        for manifest in "$folder"/*.json; do
            [ -e "$manifest" ] && return 0
        done
    done
    return 1
}

ready() {
    if [ -n "$binary" ]; then
        "$binary" --backend vulkan doctor --list >/dev/null 2>&1
    else
        has_loader && has_driver
    fi
}

# Runs a command as root: as it is, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "setup: this needs root, and there is no sudo; run as root: $*" >&2
        return 1
    fi
}

ready && exit 0

if command -v apt-get >/dev/null 2>&1; then
    echo "setup: no Vulkan driver was found; installing mesa-vulkan-drivers and libvulkan1 with apt-get"
    # The lists of packages of a new machine may be empty or old.
    as_root apt-get update -qq || echo "setup: apt-get update failed; going on with the lists there are" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        mesa-vulkan-drivers libvulkan1 >/dev/null
elif command -v dnf >/dev/null 2>&1; then
    echo "setup: no Vulkan driver was found; installing mesa-vulkan-drivers and vulkan-loader with dnf"
    as_root dnf install -y -q mesa-vulkan-drivers vulkan-loader
elif command -v pacman >/dev/null 2>&1; then
    echo "setup: no Vulkan driver was found; installing vulkan-swrast and vulkan-icd-loader with pacman"
    as_root pacman -S --needed --noconfirm vulkan-swrast vulkan-icd-loader
elif command -v zypper >/dev/null 2>&1; then
    echo "setup: no Vulkan driver was found; installing libvulkan1 and libvulkan_lvp with zypper"
    as_root zypper --non-interactive install libvulkan1 libvulkan_lvp
else
    echo "setup: no Vulkan driver was found, and this system's package manager is unknown; install your GPU's" \
        "driver, or Mesa's lavapipe, which runs on any CPU" >&2
    exit 1
fi

if ! ready; then
    echo "setup: still no Vulkan adapter; see what \`inkwash doctor\` says" >&2
    exit 1
fi
echo "setup: done"
