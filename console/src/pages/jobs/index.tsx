import { t, texts } from "../../i18n";
import { Empty } from "../../ui/Empty";
import type { PageProps } from "..";
import { en } from "./en";
import { zh } from "./zh";

const say = texts(en, zh);

export default function Page(_props: PageProps) {
  return (
    <div class="page">
      <h1>{t("nav.jobs")}</h1>
      <Empty icon="jobs" title={t("soon.title")} text={say("lead")} commands={["deepwell jobs"]} />
    </div>
  );
}
