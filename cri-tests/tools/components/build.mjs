// Makes components: node build.mjs wit FOLDER | wrap CORE OUT | js SOURCE OUT.
//
// wit writes the world of guest.wit and all of WASI 0.2 that it names, wrap makes a component of a
// module that exports wasi:cli/run, js makes one of a JavaScript source. The tools' own command lines can't be taken
// for this: they find no files.
import { cp, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const WASI = "lib/wit/builtin/0.2.12";
const ADAPTER = "lib/wasi_snapshot_preview1.reactor.wasm";
const here = import.meta.dirname;
const jco = join(dirname(createRequire(import.meta.url).resolve("@bytecodealliance/jco")), "..");
const world = await readFile(join(here, "guest.wit"), "utf8");

// All packages in one text: those of WASI as nested ones.
async function source() {
  const texts = [world];
  for (const name of await readdir(join(jco, WASI))) {
    const text = await readFile(join(jco, WASI, name, "package.wit"), "utf8");
    texts.push(text.replace(/^package (.*);$/m, "package $1 {"), "}\n");
  }
  return texts.join("");
}

const [what, from, to] = process.argv.slice(2);
if (what === "wit") {
  await mkdir(from, { recursive: true });
  await writeFile(join(from, "guest.wit"), world);
  await cp(join(jco, WASI), join(from, "deps"), { recursive: true });
} else if (what === "wrap") {
  const { componentEmbed, componentNew } = await import("@bytecodealliance/jco");
  const features = { tag: "all" }; // exit-with-code is one
  const core = { binary: await readFile(from), witSource: await source(), world: "command", features };
  const adapter = await readFile(join(jco, ADAPTER));
  const component = await componentNew(await componentEmbed(core), [["wasi_snapshot_preview1", adapter]]);
  await writeFile(to, component);
} else {
  const { componentize } = await import("@bytecodealliance/componentize-js");
  const { component } = await componentize({
    sourcePath: from,
    witWorld: await source(),
    worldName: "command",
    disableFeatures: ["fetch-event"],
  });
  await writeFile(to, component);
}
