//! What --help says after the options.

/// Behind the options of every command.
pub(crate) const MANUAL: &str = "\
TARGETS
  ADDR:PORT         127.0.0.1:1234, [::1]:1234, [fe80::1%eth0]:1234
  PREFIX:PORT       192.0.2.0/24:1234, [2001:db8::/64]:1234
  PREFIX:LOW-HIGH   192.0.2.0/24:5000-5999
  PREFIX:any        192.0.2.0/24:any (ports 1024-65535)
  Several targets take turns. Each flow or connection draws its own address and
  port; with --spray each datagram does. What is drawn depends on --seed alone.
  Not drawn are addresses that mean a whole network of this host (broadcast), nor
  the port that the flow itself sends from. Names are not looked up.

MODES OF UDP
  open     by a schedule that does not care for replies (--rate). Latency counts
           from the moment when a datagram was meant to be sent, so a stall of
           the server, or of blaster, can't hide itself.
  closed   each flow keeps --in-flight datagrams on their way and sends the next
           when one is answered, or is overdue after --timeout. Shows what a path
           carries; its latency flatters a server that stalls.
  flood    as fast as the kernel takes them. Shows what breaks first.
  TCP is always a closed loop: what a connection sends next waits for what it
  sent before.

SEARCH
  --find-max doubles the rate until it is too much, halves the bracket until it is
  --precision wide, then runs both of its ends --repeat times more, in turns. How
  sure the answer is follows from those runs: it is the probability that so many
  of one kind are not chance. A run in which blaster itself was the bottleneck
  (it sent too little, or it can have caused the loss or the latency itself)
  never counts as the server's limit; where that decides, the answer says so.

THE BOOKS
  Each datagram (TCP: message) that was sent is in exactly one class:
    ok            every byte as sent, from the address and port that it was sent
                  to, in time
    corrupted     other bytes came back, or more of them
    truncated     a true beginning came back, and no more
    misdirected   the reply came from another address or port
    late          right, but after --timeout
    lost          nothing came
    unreachable   the network said so (ICMP), and nothing came
  Beside them: duplicated, reordered (overtaken by a later one of its flow),
  unattributed (came, but answers nothing of ours), send_failures (our own kernel
  refused), own_drops (our own sockets overflowed). Three wrong replies of each
  kind are shown: source, bytes, and the first byte that differs.

CONDITIONS for --fail-if, separated by commas
  COUNT>N or COUNT>P%   a name from the outcomes, or sent; P% is of what was sent;
                        loss means lost; unsent (of the schedule); of TCP
                        connections failed, broken, stuck
  LATENCY>DURATION      p50, p90, p99, p99.9, p99.99, max, from the intended send
                        time; with the prefix actual_ from the actual one, with
                        slip_ the generator's own delay
  rate<N                right replies per second
  found<N               the highest rate that --find-max found
  Comparisons: > >= < <=. A latency that could not be measured fails its
  condition.

REPORTS
  blaster report A.json B.json shows runs side by side. With --merge they are
  machines that loaded the same at the same time, and become one report: counts,
  rates and histograms are added, second by second on the wall clock; percentiles
  are those of all replies together, never averages. Files of --steps and
  --find-max hold several runs.

SIGNALS
  SIGINT, SIGTERM or SIGHUP ends the sending; what is under way is waited for, and
  the report is written. A second SIGINT or SIGTERM waits for nobody: neither for
  replies nor for a FIFO or pipe that nobody reads. A SIGHUP that is ignored at
  the start, as by nohup(1), stays ignored.

EXIT STATUS
  0  done
  1  could not run, or a report could not be written, or nothing at all came
     back, or (TCP) no connection was served to the end; standard error says which
  2  bad command line
  3  a --fail-if holds

EXAMPLES
  blaster udp 127.0.0.1:1234 --rate 50k --duration 5s
  blaster udp 192.0.2.0/24:any --spray --flows 64 --in-flight 8 \\
      --fail-if 'loss>0.01%,p99>1ms,misdirected>0'
  blaster udp [::1]:1234 --mode flood --gso 32 --size 1200 --json report.json
  blaster udp 127.0.0.1:1234 --find-max --loss 0.1% --p99 500us
  blaster report --merge host-*.json --fail-if 'loss>0.1%'
  blaster tcp 127.0.0.1:1234 --connections 64 --size 16k
";
