import type { ComponentChildren } from "preact";
import { CopyButton } from "./Button";
import { Icon, type IconName } from "./Icon";

export interface EmptyProps {
  icon: IconName;
  title: string;
  text: string;
  /** Commands of the terminal that do the same, to copy. */
  commands?: readonly string[];
  children?: ComponentChildren;
}

/** What a page without content says: what to do first. */
export function Empty({ icon, title, text, commands = [], children }: EmptyProps) {
  return (
    <div class="empty">
      <Icon name={icon} size={32} />
      <h2>{title}</h2>
      <p>{text}</p>
      {children && <div class="row center">{children}</div>}
      {commands.map((command) => (
        <Command key={command} text={command} />
      ))}
    </div>
  );
}

/** One command of the terminal, with a button that copies it. */
export function Command({ text }: { text: string }) {
  return (
    <div class="command">
      <code>{text}</code>
      <CopyButton text={text} />
    </div>
  );
}
