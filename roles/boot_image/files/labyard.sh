# Part of the role boot_image
# What both stages of the Labyard boot image share (busybox ash). File descriptor 3 is the first serial port, 4 the display
# or nothing.
# shellcheck shell=dash

say() {
    echo "LABYARD $*" >&3
    echo "LABYARD $*" >&4
}

# First line of a file, empty when there is no such file.
value() {
    line=
    [ -r "$1" ] && read -r line <"$1"
    echo "$line"
}

# What a program said, for the person who reads the console.
show() { sed "s/^/LABYARD-LOG $1: /" "/run/$1.log" >&3; }

load() {
    while read -r module; do
        insmod "$module" 2>>/run/insmod.log || echo "insmod $module failed" >>/run/insmod.log
    done <"$1"
}

# call_home EVENT URL [WGET OPTION...]
# (The -T of Debian's static busybox wget crashes, hence timeout.)
call_home() {
    event=$1 url=$2
    shift 2
    for attempt in 1 2 3 4 5; do
        if timeout 3 wget -q -O /dev/null "$@" "$url" 2>>/run/wget.log; then
            say "phone_home=ok event=$event"
            return 0
        fi
        sleep 0.3
    done
    say "phone_home=failed event=$event attempts=$attempt"
    show wget
    return 1
}

# phone_home EVENT [MORE]: tells the lab how far this machine came, when the kernel command line says where.
phone_home() {
    [ -n "$phone_home_url" ] || return 0
    call_home "$1" "$phone_home_url/$(echo "$mac" | tr : -)?event=$1&target=$target$2"
}
