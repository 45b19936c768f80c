// The JavaScript guest: a component whose first argument says what to do, as in the other guests.
// It calls the interfaces of WASI itself: the engine has no API of its own for most of it.
import { getArguments, getEnvironment } from "wasi:cli/environment@0.2.12";
import { exitWithCode } from "wasi:cli/exit@0.2.12";
import { getStdin } from "wasi:cli/stdin@0.2.12";
import { getStdout } from "wasi:cli/stdout@0.2.12";
import { subscribeDuration } from "wasi:clocks/monotonic-clock@0.2.12";
import { now } from "wasi:clocks/wall-clock@0.2.12";
import { getDirectories } from "wasi:filesystem/preopens@0.2.12";
import { getRandomBytes } from "wasi:random/random@0.2.12";
import { instanceNetwork } from "wasi:sockets/instance-network@0.2.12";
import { resolveAddresses } from "wasi:sockets/ip-name-lookup@0.2.12";
import { createTcpSocket } from "wasi:sockets/tcp-create-socket@0.2.12";

// componentize-js 0.23 defines no class for a resource without methods, yet what it generates names
// this one. Its code has a global object of its own, which all functions of it lead to.
getArguments.constructor("return this")().import_network_0_2_12$Network = class Network {};
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const MOST = 4096n;

function say(text) {
  getStdout().blockingWriteAndFlush(encoder.encode(text));
}

// Gives what a call throws as an error instead of a value.
function attempt(call) {
  try {
    return [call(), undefined];
  } catch (error) {
    return [undefined, error.payload ?? error];
  }
}

// The chunks of an input stream to its end, which the interface calls an error: closed.
function* chunks(input) {
  for (;;) {
    const [data, error] = attempt(() => input.blockingRead(MOST));
    if (error?.tag === "closed") return;
    if (error) throw new Error(JSON.stringify(error.tag ?? String(error)));
    yield data;
  }
}

// Calls what may answer would-block, and waits each time that it does.
function patiently(waits, call) {
  for (;;) {
    const [value, error] = attempt(call);
    if (error === undefined) return value;
    if (error !== "would-block") throw new Error(String(error));
    waits.subscribe().block();
  }
}

function open(path, how, flags) {
  const [[root]] = getDirectories();
  return root.openAt({ symlinkFollow: true }, path.replace(/^\//, ""), how, flags);
}

function* addresses(name) {
  const found = resolveAddresses(instanceNetwork(), name);
  for (;;) {
    const next = patiently(found, () => found.resolveNextAddress());
    if (next === undefined) return;
    if (next.tag === "ipv4") yield next.val;
  }
}

const verbs = {
  hello() {
    say("hello from JavaScript in wasm\n");
    getArguments().forEach((arg, number) => say(`arg ${number}: ${arg}\n`));
    for (const [name, value] of getEnvironment()) say(`env: ${name}=${value}\n`);
  },
  exit(code) {
    exitWithCode(Number(code));
  },
  write(path, text) {
    const file = open(path, { create: true }, { write: true });
    file.appendViaStream().blockingWriteAndFlush(encoder.encode(`${text}\n`));
  },
  read(path) {
    for (const data of chunks(open(path, {}, { read: true }).readViaStream(0n))) say(decoder.decode(data));
  },
  echo() {
    for (const data of chunks(getStdin())) say(decoder.decode(data));
  },
  time() {
    say(`time ${now().seconds}\n`);
    for (let line = 0; line < 2; line++) {
      const bytes = Array.from(getRandomBytes(8n), (byte) => byte.toString(16).padStart(2, "0"));
      say(`random ${bytes.join("")}\n`);
    }
  },
  count(milliseconds) {
    for (let number = 0; ; number++) {
      say(`line ${number}\n`);
      subscribeDuration(BigInt(milliseconds) * 1000000n).block();
    }
  },
  lookup(name) {
    for (const address of addresses(name)) say(`address ${address.join(".")}\n`);
  },
  connect(name, port, text) {
    const [address] = addresses(name);
    const socket = createTcpSocket("ipv4");
    socket.startConnect(instanceNetwork(), { tag: "ipv4", val: { port: Number(port), address } });
    const [input, output] = patiently(socket, () => socket.finishConnect());
    output.blockingWriteAndFlush(encoder.encode(text));
    socket.shutdown("send");
    for (const data of chunks(input)) say(decoder.decode(data));
  },
  serve(port) {
    const socket = createTcpSocket("ipv4");
    const any = { tag: "ipv4", val: { port: Number(port), address: [0, 0, 0, 0] } };
    socket.startBind(instanceNetwork(), any);
    patiently(socket, () => socket.finishBind());
    socket.startListen();
    patiently(socket, () => socket.finishListen());
    say("serving\n");
    for (;;) {
      const [peer, input, output] = patiently(socket, () => socket.accept());
      let line = "";
      for (const data of chunks(input)) {
        line += decoder.decode(data);
        if (line.includes("\n")) break;
      }
      output.blockingWriteAndFlush(encoder.encode(line));
      for (const one of [input, output, peer]) one[Symbol.dispose]();
    }
  },
  async fetch(url) {
    const response = await fetch(url);
    say(`status ${response.status}\n${await response.text()}`);
  },
};

export const run = {
  async run() {
    const [, verb = "hello", ...rest] = getArguments();
    await verbs[verb](...rest);
  },
};
