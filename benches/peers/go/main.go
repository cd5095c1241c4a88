// An echo server as tubular's own example is built: one goroutine per socket, ReadMsgUDP and WriteMsgUDP,
// the original destination from its control message, the socket's default buffers. It echoes instead of
// greeting, and logs nothing.
//
//	go run main.go [-netip] --listen 127.0.0.1:1234
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

const (
	ipOrigDstAddr   = 20 // IP_RECVORIGDSTADDR, linux/in.h
	ipv6OrigDstAddr = 74 // IPV6_RECVORIGDSTADDR, linux/in6.h
	ipv6FreeBind    = 78 // IPV6_FREEBIND
)

var byteOrder = binary.LittleEndian // x86-64 and arm64

func main() {
	listen := flag.String("listen", "127.0.0.1:1234", "address and port")
	addrPort := flag.Bool("netip", false, "use the calls that do not allocate")
	flag.Parse()
	if err := serve(*listen, *addrPort); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func serve(listen string, addrPort bool) error {
	address, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp", address)
	if err != nil {
		return err
	}
	if err := receiveOrigDst(conn, address.IP.To4() != nil); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "ready", conn.LocalAddr())
	if addrPort {
		return echoAddrPort(conn)
	}
	return echo(conn)
}

// receiveOrigDst asks for the original destination of each datagram.
func receiveOrigDst(conn *net.UDPConn, v4 bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if v4 {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, ipOrigDstAddr, 1)
			return
		}
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_IPV6, ipv6OrigDstAddr, 1)
		if failed == nil {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_IPV6, ipv6FreeBind, 1)
		}
	})
	if err != nil {
		return err
	}
	return failed
}

func echo(conn *net.UDPConn) error {
	payload, control := make([]byte, 1024), make([]byte, 64)
	for {
		n, controlled, _, peer, err := conn.ReadMsgUDP(payload, control)
		if err != nil {
			return err
		}
		info, err := replySource(control[:controlled])
		if err != nil {
			return err
		}
		// A reply that cannot be sent is lost, as on any network.
		_, _, _ = conn.WriteMsgUDP(payload[:n], info, peer)
	}
}

func echoAddrPort(conn *net.UDPConn) error {
	payload, control := make([]byte, 1024), make([]byte, 64)
	for {
		n, controlled, _, peer, err := conn.ReadMsgUDPAddrPort(payload, control)
		if err != nil {
			return err
		}
		info := control[:packetInfo(control, control[:controlled])]
		_, _, _ = conn.WriteMsgUDPAddrPort(payload[:n], info, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()))
	}
}

// replySource turns received control messages into the one that chooses where the reply leaves from.
func replySource(control []byte) ([]byte, error) {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	if len(messages) == 0 {
		return nil, errors.New("no original destination")
	}
	info := make([]byte, syscall.CmsgSpace(syscall.SizeofInet6Pktinfo))
	return info[:packetInfo(info, control)], nil
}

// packetInfo writes a packet-info control message for the original destination, which must be the first of
// control, and returns its length. Both may be the same memory.
func packetInfo(info, control []byte) int {
	level, kind := byteOrder.Uint32(control[8:]), byteOrder.Uint32(control[12:])
	data := control[syscall.SizeofCmsghdr:]
	var address [16]byte
	var at, size int
	switch {
	case level == syscall.SOL_IP && kind == ipOrigDstAddr:
		copy(address[4:8], data[4:8]) // sin_addr to ipi_spec_dst
		kind, at, size = syscall.IP_PKTINFO, 0, syscall.SizeofInet4Pktinfo
	case level == syscall.SOL_IPV6 && kind == ipv6OrigDstAddr:
		copy(address[:], data[8:24]) // sin6_addr to ipi6_addr
		kind, at, size = syscall.IPV6_PKTINFO, 0, syscall.SizeofInet6Pktinfo
	default:
		return 0
	}
	for i := range info[:syscall.CmsgSpace(size)] {
		info[i] = 0
	}
	byteOrder.PutUint64(info, uint64(syscall.CmsgLen(size)))
	byteOrder.PutUint32(info[8:], level)
	byteOrder.PutUint32(info[12:], kind)
	copy(info[syscall.SizeofCmsghdr+at:], address[:])
	return syscall.CmsgSpace(size)
}
