# The first process in a node's namespaces. The node's programs are started in them afterwards.
# node.sh NAME INDEX DIRECTORY
set -eu
name=$1 index=$2 dir=$3
hostname "$name"
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount --bind "$dir/log" /var/log
# The kubelet hard-codes /var/lib/kubelet/device-plugins.
mount -t overlay -o "lowerdir=/var/lib,upperdir=$dir/var-lib,workdir=$dir/var-lib-work" overlay /var/lib

# The node's cgroup is the root of its cgroup namespace. Version 1 wants every hierarchy of
# /proc/self/cgroup mounted, named ones too.
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
while IFS=: read -r _ controllers _; do
  [ -n "$controllers" ] || continue
  point=/sys/fs/cgroup/${controllers#name=}
  mkdir "$point"
  case $controllers in
    name=*) mount -t cgroup -o "none,$controllers" cgroup "$point" ;;
    *) mount -t cgroup -o "$controllers" cgroup "$point" ;;
  esac
  # Controllers that are mounted together are looked up one by one.
  for one in $(echo "$controllers" | tr , ' '); do [ -e "/sys/fs/cgroup/${one#name=}" ] || ln -s "$point" "/sys/fs/cgroup/$one"; done
done < /proc/self/cgroup
if [ -z "$(ls -A /sys/fs/cgroup)" ]; then
  # Version 2. The harness enables the controllers from outside, where all processes of the cgroup
  # are visible.
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi

# The kubelet would write these sysctls of the whole machine. It gets files with the values that it
# wants instead.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=$dir/sysctl/$(echo "${setting%=*}" | tr / _)
  echo "${setting#*=}" > "$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done
mount --make-rshared /

# The harness makes eth0.
for _ in $(seq 200); do ip link show eth0 > /dev/null 2>&1 && break; sleep 0.05; done
ip link set lo up
ip addr add "10.89.0.$((10 + index))/24" dev eth0
ip link set eth0 up
# No packet takes this route, but the kernel needs one for the addresses of Services.
ip route add default via 10.89.0.1
for n in $(seq 0 15); do [ "$n" = "$index" ] || ip route add "10.244.$n.0/24" via "10.89.0.$((10 + n))"; done
echo 1 > /proc/sys/net/ipv4/ip_forward
touch "$dir/up"

# The container shims are orphans by design. bash reaps them.
sleep infinity & wait
