import { count, percent } from "../../i18n";
import { say } from "./say";
import type { Gate } from "./types";

/** One number of a gate beside its limit. */
export interface Measure {
  name: string;
  number: string;
  limit: string;
  held: boolean;
}

type Kind = "least" | "most" | "above";
type Shown = (value: number) => string;

interface Rule {
  label: Parameters<typeof say>[0];
  number: string;
  kind: Kind;
  /** Name of the limit among the numbers, or the limit itself. */
  limit: string | number;
  shown: Shown;
}

const whole: Shown = (value) => count(value);
const fine: Shown = (value) => count(value, 3);
const part: Shown = (value) => percent(value);
const signed: Shown = (value) => `${value > 0 ? "+" : ""}${count(100 * value, 2)} %`;

/** The area that the second judge needs on held-out answers. */
const LEAST_AUC = 0.6;

const RULES: Record<string, readonly Rule[]> = {
  votes: [
    { label: "measure.votes", number: "votes", kind: "least", limit: "least_votes", shown: whole },
    { label: "measure.users", number: "users", kind: "least", limit: "least_users", shown: whole },
    { label: "measure.share", number: "largest_share", kind: "most", limit: "most_share", shown: part },
    { label: "measure.sides", number: "users_on_both_sides", kind: "most", limit: 0, shown: whole },
  ],
  approval: [
    { label: "measure.approval", number: "low", kind: "above", limit: 0, shown: fine },
    { label: "measure.second", number: "second_gain", kind: "above", limit: 0, shown: fine },
    { label: "measure.skill", number: "second_auc", kind: "least", limit: LEAST_AUC, shown: fine },
  ],
  choices: [{ label: "measure.choices", number: "candidate", kind: "least", limit: "least", shown: fine }],
  loss: [{ label: "measure.loss", number: "rise", kind: "most", limit: "most", shown: signed }],
  endings: [{ label: "measure.endings", number: "candidate", kind: "least", limit: "least", shown: part }],
  safety: [
    { label: "measure.unsafe", number: "unsafe_candidate", kind: "most", limit: "unsafe_current", shown: part },
    { label: "measure.secondUnsafe", number: "second_candidate", kind: "most", limit: "second_current", shown: part },
    { label: "measure.refusals", number: "refused_candidate", kind: "most", limit: "most_refused", shown: part },
  ],
  latency: [{ label: "measure.latency", number: "ratio", kind: "most", limit: "most", shown: fine }],
};

const SLACK = 1e-9;

/** The numbers of a gate with their limits, as far as its report has both. */
export function measuresOf(gate: Gate): Measure[] {
  return (RULES[gate.name] ?? []).flatMap((rule) => {
    const number = gate.numbers[rule.number];
    const limit = typeof rule.limit === "number" ? rule.limit : gate.numbers[rule.limit];
    if (typeof number !== "number" || typeof limit !== "number") return [];
    const held =
      rule.kind === "above" ? number > limit : rule.kind === "least" ? number >= limit - SLACK : number <= limit + SLACK;
    const value = rule.shown(limit);
    return [{ name: say(rule.label), number: rule.shown(number), limit: say(`limit.${rule.kind}`, { value }), held }];
  });
}

/** What a gate without numbers says, in words of this page where it knows them. */
export function saidBy(gate: Gate): string {
  if (gate.reason === "it was not measured") return say("measure.none");
  return gate.reason.startsWith("its numbers are too few") ? say("measure.unusable") : gate.reason;
}
