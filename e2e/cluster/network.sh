# The first process in a cluster's namespaces. When it ends, the kernel ends everything that runs in
# them, nodes included.
# network.sh UP_FILE owner|detached
set -eu
mount --make-rprivate /
mount -t proc proc /proc

# The bridge is the network between the machines. The control plane has the address .1, node N has
# .(10+N) and the pods 10.244.N.0/24.
ip link set lo up
# A bridge without a MAC address of its own takes the lowest of its ports. When the node of that
# port is killed, the others keep sending to the old address until their ARP entries expire.
ip link add lan address 02:00:0a:59:00:01 type bridge
ip addr add 10.89.0.1/24 dev lan
ip link set lan up
echo 1 > /proc/sys/net/ipv4/ip_forward
for n in $(seq 0 15); do ip route add "10.244.$n.0/24" via "10.89.0.$((10 + n))"; done
# The API server calls webhooks by their Services, whose addresses kube-proxy translates: here that of the first node.
ip route add 10.96.0.0/16 via 10.89.0.10
touch "$1"

if [ "$2" = owner ]; then
  # The process that booted the cluster has the other end of this pipe, so the cluster ends with it.
  while read -r _; do :; done
else
  sleep infinity & wait
fi
