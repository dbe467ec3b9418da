#!/bin/sh
# Runs the launcher's command once every worker takes ssh connections. mpirun asks each worker once, and gives the
# job up if one has no address yet.
trap 'exit 143' TERM INT
limit=${BURSAR_WORKERS_TIMEOUT:-1800}
began=$(date +%s)
for host in $(cut -d ' ' -f 1 /etc/mpi/hostfile); do
  until said=$(ssh -o BatchMode=yes -o ConnectTimeout=5 -o ConnectionAttempts=1 "$host" true 2>&1); do
    case $said in
      # waiting mends neither
      *'Permission denied'* | *'Host key verification failed'*)
        echo "worker $host refuses the ssh key of the job: $said" >&2
        echo "its log says why; a locked account (root:! in /etc/shadow) takes none until its image runs usermod -p '*' root" >&2
        exit 1
        ;;
    esac
    if [ $(($(date +%s) - began)) -ge "$limit" ]; then
      echo "worker $host has taken no ssh connection within $limit seconds: $said" >&2
      exit 1
    fi
    sleep 1
  done
done
exec "$@"
