import { t, texts } from "../../i18n";
import { go } from "../../state/route";
import { Tabs } from "../../ui/Tabs";
import type { PageProps } from "..";
import { Compliance } from "./Compliance";
import { Decisions } from "./Decisions";
import { en } from "./en";
import { Policy } from "./Policy";
import { Try } from "./Try";
import { zh } from "./zh";
import "./style.css";

const say = texts(en, zh);
const TABS = ["policy", "try", "decisions", "compliance"] as const;

/** The guard's policy, a text to try, what the guard decided, and the compliance of this installation. */
export default function Page({ rest }: PageProps) {
  const tab = TABS.find((one) => one === rest[0]) ?? "policy";
  return (
    <div class="page">
      <h1>{t("nav.safety")}</h1>
      <Tabs
        label={say("tab.label")}
        tabs={TABS.map((name) => ({ name, title: say(`tab.${name}`) }))}
        chosen={tab}
        onChoose={(name) => go({ page: "safety", rest: [name], replace: true })}
      >
        {tab === "policy" && <Policy />}
        {tab === "try" && <Try />}
        {tab === "decisions" && <Decisions />}
        {tab === "compliance" && <Compliance chosen={rest[1]} />}
      </Tabs>
    </div>
  );
}
