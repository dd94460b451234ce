/** A real sidecar process, from `$BATCH_LLM_SIDECAR` or the PATH. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { Folder } from "./folder.js";

const CONFIG = `
[providers.simulated]
kind = "simulated"
[strategies.echo]
provider = "simulated"
[strategies.echo.retry]
initial_wait_seconds = 0
[strategies.cached]
provider = "simulated"
cached_content = ["a handbook that all items share, long enough to count"]
`;

export class Sidecar implements AsyncDisposable {
  private constructor(
    readonly target: string,
    private readonly folder: Folder,
    readonly process: ChildProcess,
  ) {}

  /** Starts one that listens on loopback TCP, or on a Unix socket; again: the one that was there before. */
  static async start(listen: "tcp" | "unix" | { again: Sidecar } = "tcp"): Promise<Sidecar> {
    const again = typeof listen === "object" ? listen.again : undefined;
    const folder = again?.folder ?? (await Folder.make());
    const address = again?.target ?? (listen === "unix" ? `unix:${folder.path}/s.sock` : "127.0.0.1:0");
    await writeFile(join(folder.path, "sidecar.toml"), CONFIG);
    const program = process.env["BATCH_LLM_SIDECAR"] ?? "batch-llm-sidecar";
    const options = ["serve", "--listen", address, "--state-dir", join(folder.path, "state")];
    const child = spawn(program, [...options, "--config", join(folder.path, "sidecar.toml")], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    const missing = once(child, "error").then(([error]) => {
      const way = "install it (`make setup` in the repository) or set BATCH_LLM_SIDECAR to where it is";
      throw new Error(`these tests need a sidecar: ${program} cannot be started; ${way}`, { cause: error });
    });
    const lines: string[] = [];
    const served = (async () => {
      for await (const line of createInterface({ input: child.stderr })) {
        lines.push(line);
        const target = /serving on (\S+)/.exec(line)?.[1];
        if (target !== undefined) {
          child.stderr.resume();
          return target;
        }
      }
      throw new Error(`the sidecar ended:\n${lines.join("\n")}`);
    })();
    return new Sidecar(await Promise.race([served, missing]), folder, child);
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    const ended = once(this.process, "exit");
    this.process.kill("SIGKILL");
    await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      await this.kill();
    }
    await this.folder[Symbol.asyncDispose]();
  }
}
