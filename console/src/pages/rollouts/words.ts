import { count, language, percent } from "../../i18n";
import { say } from "./say";
import type { Entry, Gate, Rollout, Side } from "./types";

type Fields = Record<string, unknown>;

/** What an entry of the ledger tells, in the language shown. The server's own words are English. */
export function wordsOf(entry: Entry): string {
  if (language.value !== "zh") return entry.words;
  try {
    return CHINESE[entry.event]?.(entry.alias, entry.fields) ?? entry.words;
  } catch {
    return entry.words;
  }
}

/** Who did something: the id of a key, or what stands in its place. */
export function authorOf(by: string): string {
  const known = (["cli", "local", "votes", "improve"] as const).find((one) => one === by);
  return known === undefined ? by : say(`by.${known}`);
}

/** The reason of a roll-out that ended: composed where the votes decided, else as somebody wrote it. */
export function reasonOf(rollout: Rollout): string {
  const kinds = { "fewer users": "why.fewer", "approval is": "why.enough", "undecided after": "why.undecided" } as const;
  const found = Object.entries(kinds).find(([begin]) => rollout.reason.startsWith(begin));
  if (found === undefined || rollout.votes === null) return rollout.reason;
  const { candidate, current } = rollout.votes;
  return say(found[1], { candidate: approvalOf(candidate), current: approvalOf(current), margin: marginOf(rollout) });
}

/** The margin of a roll-out in points. */
export function marginOf(rollout: Rollout): string {
  return count(100 * (rollout.plan.margin ?? 0), 1);
}

/** The share of the users of a side who approve, and their number. */
export function approvalOf(side: Side): string {
  return side.users === 0 ? "–" : `${percent(side.good / side.users)} (${count(side.users)})`;
}

/** A difference in points with its sign: +3.5. */
export function points(value: number): string {
  const shown = count(100 * Math.abs(value), 1);
  return shown === "0" ? "0" : `${value < 0 ? "−" : "+"}${shown}`;
}

/** The names of the gates that refuse. */
export function refusing(gates: readonly Gate[]): string {
  return gates.filter((one) => !one.passed).map((one) => gateOf(one.name)).join(language.value === "zh" ? "、" : ", ");
}

const GATES = ["votes", "approval", "choices", "loss", "endings", "safety", "latency"] as const;

/** The name of a gate in words. */
export function gateOf(name: string): string {
  const known = GATES.find((one) => one === name);
  return known === undefined ? name : say(`gate.${known}`);
}

function why(told: Fields): string {
  return told.reason ? `（${text(told.reason)}）` : "";
}

function text(value: unknown): string {
  if (typeof value === "string") return value;
  throw new Error("not a text");
}

const CHINESE: Record<string, (alias: string, told: Fields) => string> = {
  version: (_, told) => {
    const parents = Array.isArray(told.parents) ? told.parents.map(String).join("、") : "";
    return `登记 ${text(told.version)}：${text(told.model)}${parents === "" ? "" : `，来源 ${parents}`}`;
  },
  gates: (_, told) => {
    const report = told.report as { passed?: unknown; gates?: Gate[] };
    if (report.passed === true) return `${text(told.version)} 通过了门禁`;
    return `${text(told.version)} 未通过门禁：${refusing(report.gates ?? [])}`;
  },
  canary: (alias, told) => {
    const share = percent(Number(told.share));
    const passed = told.reason ? `；未经门禁放行：${text(told.reason)}` : "";
    return `开始发布 ${text(told.version)}：${alias} 的 ${share} 用户使用 ${text(told.candidate)}，其余使用 ${text(told.model)}${passed}`;
  },
  step: (alias, told) => `${alias} 的候选版本：${percent(Number(told.before))} 的用户增至 ${percent(Number(told.share))}`,
  promoted: (alias, told) => `${alias} 改为指向 ${text(told.model)}，不再是 ${text(told.before)}${why(told)}`,
  rolled_back: (alias, told) => `发布已回滚：${alias} 仍指向 ${text(told.model)}${why(told)}`,
  aborted: (alias, told) => `发布已终止：${alias} 仍指向 ${text(told.model)}${why(told)}`,
  reverted: (alias, told) => `推广已撤销：${alias} 恢复指向 ${text(told.model)}，不再是 ${text(told.before)}${why(told)}`,
  alias: (alias, told) => `${alias} 指向 ${text(told.model)}${told.before ? `，不再是 ${text(told.before)}` : ""}`,
  alias_removed: (alias) => `${alias} 已删除`,
};
