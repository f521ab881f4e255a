import { useState } from "preact/hooks";
import { count, language, texts, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Command } from "../../ui/Empty";
import { SelectField } from "../../ui/Field";
import { saveAs } from "../../ui/files/save";
import { en } from "./en";
import type { Check, CheckHead, PackReport, Question, Report, Words } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const KINDS: Record<Check["status"], string> = { pass: "good", fail: "bad", not_run: "warn", not_applicable: "" };
const ORDER: readonly Check["status"][] = ["fail", "not_run", "pass", "not_applicable"];

/** A text of a report in the language shown. */
function words(text: Words | string | number): string {
  if (typeof text === "string") return text;
  return typeof text === "number" ? String(text) : text[language.value];
}

/** A compliance report: the checks of each pack with their evidence, and the questions that a person answers. */
export function ReportView({ report }: { report: Report }) {
  const [shown, setShown] = useState<"all" | "open">("all");
  const made = Date.parse(report.made_at) / 1000;
  const save = () => {
    const text = JSON.stringify(report, null, 2);
    saveAs(new Blob([text], { type: "application/json" }), `compliance-${report.made_at.slice(0, 10)}.json`);
  };
  return (
    <article class="safety-report">
      <header class="stack">
        <div class="row">
          <span class={`badge ${report.holds ? "good" : "bad"}`}>{say(report.holds ? "report.holds" : "report.open")}</span>
          <span class="muted small grow">{say("report.made", { at: Number.isFinite(made) ? time(made) : report.made_at })}</span>
          <Button small icon="download" onClick={save}>
            {say("report.save")}
          </Button>
        </div>
        <p class="muted small">{say("report.advice")}</p>
        <details>
          <summary>{say("report.facts")}</summary>
          <Facts facts={Object.entries(report.facts)} />
        </details>
        <div class="safety-show">
          <SelectField
            label={say("report.show")}
            value={shown}
            choices={[
              { value: "all", label: say("report.all") },
              { value: "open", label: say("report.onlyOpen") },
            ]}
            onChange={setShown}
          />
        </div>
      </header>
      {report.packs.map((pack) => (
        <Pack key={pack.pack} pack={pack} onlyOpen={shown === "open"} />
      ))}
    </article>
  );
}

function Pack({ pack, onlyOpen }: { pack: PackReport; onlyOpen: boolean }) {
  const checks = onlyOpen ? pack.checks.filter((one) => one.status === "fail" || one.status === "not_run") : pack.checks;
  const questions = onlyOpen ? pack.questions.filter((one) => one.due) : pack.questions;
  return (
    <section class="safety-pack">
      <h2>{words(pack.title)}</h2>
      <div class="row">
        {ORDER.filter((status) => pack.counts[status]).map((status) => (
          <span key={status} class={`badge ${KINDS[status]}`}>
            {say(`status.${status}`)} {count(pack.counts[status] ?? 0)}
          </span>
        ))}
        {pack.due > 0 && <span class="badge warn">{say("report.due", { count: count(pack.due) })}</span>}
      </div>
      <h3>{say("report.checks")}</h3>
      {checks.length === 0 && <p class="muted">{say("report.allPass")}</p>}
      {[...checks]
        .sort((a, b) => ORDER.indexOf(a.status) - ORDER.indexOf(b.status))
        .map((one) => (
          <CheckView key={one.id} check={one} />
        ))}
      {questions.length > 0 && <h3>{say("report.questions")}</h3>}
      {questions.map((one) => (
        <QuestionView key={one.id} question={one} pack={pack.pack} />
      ))}
    </section>
  );
}

function CheckView({ check }: { check: Check }) {
  const open = check.status === "fail" || check.status === "not_run";
  return (
    <details class="safety-check" open={open}>
      <summary>
        <span class={`badge ${KINDS[check.status]}`}>{say(`status.${check.status}`)}</span> {words(check.title)}
      </summary>
      <Facts facts={check.evidence.map((fact) => [words(fact.name), words(fact.value)] as const)} />
      {open && words(check.fix) !== "" && (
        <p class="safety-fix">
          <b>{say("report.fix")}</b> {words(check.fix)}
        </p>
      )}
      <RuleOf head={check} />
    </details>
  );
}

function QuestionView({ question, pack }: { question: Question; pack: string }) {
  const { answer, due } = question;
  return (
    <details class="safety-check">
      <summary>
        <span class={`badge ${due ? "warn" : "good"}`}>{say(due ? "question.due" : "question.answered")}</span>{" "}
        {words(question.title)}
      </summary>
      {answer && (
        <blockquote>
          <p>{answer.answer}</p>
          {answer.evidence && <p class="muted">{say("report.proof", { evidence: answer.evidence })}</p>}
          <p class="muted small">{say("report.answered", { who: answer.answered_by, day: answer.day })}</p>
        </blockquote>
      )}
      {due && /^[\w.-]+$/.test(question.id) && (
        <>
          <p class="muted small">{say("report.answer")}</p>
          <Command text={`deepwell compliance answer ${question.id} "…" --by "…" --pack ${pack}`} />
        </>
      )}
      <RuleOf head={question} />
    </details>
  );
}

function RuleOf({ head: { id, rule } }: { head: CheckHead }) {
  return (
    <p class="muted small safety-rule">
      {say("report.rule")}: {words(rule.document)} {rule.clause} · <code>{id}</code>
      {!rule.read && (
        <>
          <br />
          {say("report.source", { source: words(rule.source) })}
        </>
      )}
    </p>
  );
}

function Facts({ facts }: { facts: readonly (readonly [string, string])[] }) {
  return (
    <dl class="safety-evidence">
      {facts.map(([name, value], place) => (
        <div key={`${name} ${place}`}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
