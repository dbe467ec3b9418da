# First process of a cluster's namespaces. When it ends, the kernel ends everything that runs in them, nodes included.
# network.sh UP_FILE owner|detached
set -eu
mount --make-rprivate /
mount -t proc proc /proc

# The bridge stands for the network between machines: the control plane has .1, node N has .(10+N) and the pods of 10.244.N.0/24.
ip link set lo up
# Its address is given: otherwise it is the lowest of its ports', and when the node of that port is killed the others talk to nobody for
# as long as they remember it.
ip link add lan address 02:00:0a:59:00:01 type bridge
ip addr add 10.89.0.1/24 dev lan
ip link set lan up
echo 1 > /proc/sys/net/ipv4/ip_forward
for n in $(seq 0 15); do ip route add "10.244.$n.0/24" via "10.89.0.$((10 + n))"; done
touch "$1"

if [ "$2" = owner ]; then
  # The owner holds the other end of this pipe: however it ends, the cluster ends with it.
  while read -r _; do :; done
else
  sleep infinity & wait
fi
